package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
)

// maxRegistryRequests is how many requests a registry handles at once; others wait.
const maxRegistryRequests = 32

// registryService is the NATS service of a region's registry: a method of rpc.registry for each of methods.
func registryService(region string, methods map[string]registry.Method) jetstream.ServiceConfig {
	cfg := jetstream.ServiceConfig{
		Name: "berth_registry", Version: "1.0.0", Description: fmt.Sprintf("Registry of region %s", region),
		Concurrency: maxRegistryRequests,
	}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
			Name: name,
			Subject: events.Subject{
				Kind: events.KindRPC, Service: "registry", Jurisdiction: events.GlobalJurisdiction,
				Region: region, Method: name,
			}.String(),
			Every:   methods[name].Leader,
			Handler: registryHandler(methods[name]),
		})
	}
	return cfg
}

// registryHandler answers with a method's reply, or with a service error that says what is wrong: 400 where the request
// is at fault, 503 where the registry is.
func registryHandler(m registry.Method) func(context.Context, jetstream.Request) jetstream.Reply {
	return func(ctx context.Context, r jetstream.Request) jetstream.Reply {
		data, err := m.Answer(ctx, r.Data)
		switch {
		case err == nil:
			return jetstream.Reply{Data: data}
		case errors.Is(err, registry.ErrNotLeading) && m.Leader:
			return jetstream.Reply{Silent: true}
		case errors.Is(err, registry.ErrBadRequest):
			return jetstream.ErrorReply("400", err.Error())
		default:
			return jetstream.ErrorReply("503", err.Error())
		}
	}
}
