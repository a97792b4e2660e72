package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
)

// rpcRegistry is the service of rpc subjects that a region's registries answer.
const rpcRegistry = "registry"

// RegistryMethod returns the subject of a method of a region's registries.
func RegistryMethod(region, method string) string {
	return events.Subject{
		Kind: events.KindRPC, Service: rpcRegistry, Jurisdiction: events.GlobalJurisdiction, Region: region, Method: method,
	}.String()
}

// registryEndpoints are the methods of rpc.registry. Any registry of the region answers: what
// it is told it notes for all of them.
func registryEndpoints(region string, r *registry.Registry) jetstream.ServiceConfig {
	cfg := jetstream.ServiceConfig{
		Name: "berth_registry", Version: "1.0.0", Description: fmt.Sprintf("Registry of region %s", region),
	}
	for _, m := range []struct {
		name   string
		handle func(context.Context, []byte) ([]byte, error)
	}{
		{"drain", answering(r.Drain)},
		{"undrain", answering(r.Undrain)},
		{"region", answering(r.SetRegion)},
		{"regions", answering(func(context.Context, struct{}) ([]registry.RegionStatus, error) {
			return r.Regions(time.Now())
		})},
	} {
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
			Name: m.name, Subject: RegistryMethod(region, m.name),
			Handler: func(ctx context.Context, q jetstream.Request) jetstream.Reply {
				data, err := m.handle(ctx, q.Data)
				if err != nil {
					return refusal(err)
				}
				return jetstream.Reply{Data: data}
			},
		})
	}
	return cfg
}

// answering makes a handler of JSON from one of values. An empty request is the zero value.
func answering[Request, Reply any](fn func(context.Context, Request) (Reply, error)) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, data []byte) ([]byte, error) {
		var q Request
		if len(data) > 0 {
			if err := json.Unmarshal(data, &q); err != nil {
				return nil, &registry.Refusal{Code: registry.RefusedInvalid, Detail: "the request is not the JSON that it should be: " + err.Error()}
			}
		}
		reply, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		return json.Marshal(reply)
	}
}

// refusal is the answer to a request that was not carried out.
func refusal(err error) jetstream.Reply {
	code := registry.RefusedUnavailable
	if r, ok := errors.AsType[*registry.Refusal](err); ok {
		code = r.Code
	}
	return jetstream.Reply{Header: map[string][]string{
		micro.ErrorCodeHeader: {strconv.Itoa(code)}, micro.ErrorHeader: {err.Error()},
	}}
}
