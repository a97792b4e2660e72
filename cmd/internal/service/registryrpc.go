package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
)

// maxRegistryRequests is how many requests a registry handles at once; others wait.
const maxRegistryRequests = 32

// RegistryMethod returns the subject of a method of a region's registries.
func RegistryMethod(region, method string) string { return globalMethod("registry", region, method) }

// globalMethod returns the subject of a service's method for all jurisdictions.
func globalMethod(service, region, method string) string {
	return events.Subject{
		Kind: events.KindRPC, Service: service, Jurisdiction: events.GlobalJurisdiction, Region: region, Method: method,
	}.String()
}

// registryService is the NATS service of a region's registry: a method of rpc.registry for each of methods.
func registryService(region string, methods map[string]registry.Method) jetstream.ServiceConfig {
	cfg := jetstream.ServiceConfig{
		Name: "berth_registry", Version: "1.0.0", Description: fmt.Sprintf("Registry of region %s", region),
		Concurrency: maxRegistryRequests,
	}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
			Name: name, Subject: RegistryMethod(region, name),
			Every:   methods[name].Leader,
			Handler: registryHandler(methods[name]),
		})
	}
	return cfg
}

// registryHandler answers with a method's reply, or with a service error that says what is wrong.
func registryHandler(m registry.Method) func(context.Context, jetstream.Request) jetstream.Reply {
	return func(ctx context.Context, r jetstream.Request) jetstream.Reply {
		data, err := m.Answer(ctx, r.Data)
		if err == nil {
			return jetstream.Reply{Data: data}
		}
		if errors.Is(err, registry.ErrNotLeading) && m.Leader {
			return jetstream.Reply{Silent: true}
		}
		code := registry.RefusedUnavailable
		if refusal, ok := errors.AsType[*registry.Refusal](err); ok {
			code = refusal.Code
		}
		return jetstream.ErrorReply(strconv.Itoa(code), err.Error())
	}
}
