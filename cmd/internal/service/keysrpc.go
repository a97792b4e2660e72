package service

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/tokens"
)

// TokensMethod returns the subject of a method of a region's token services.
func TokensMethod(region, method string) string {
	return events.Subject{
		Kind: events.KindRPC, Service: "tokens", Jurisdiction: events.GlobalJurisdiction, Region: region, Method: method,
	}.String()
}

// keyEndpoints are the methods of rpc.tokens about keys. They answer with plain JSON, or with a
// service error that says what is wrong.
func keyEndpoints(region string, methods map[string]tokens.KeyMethod) []jetstream.Endpoint {
	var endpoints []jetstream.Endpoint
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		m := methods[name]
		endpoints = append(endpoints, jetstream.Endpoint{
			Name: name, Subject: TokensMethod(region, name), Every: m.Every,
			Handler: func(ctx context.Context, r jetstream.Request) jetstream.Reply {
				data, err := m.Answer(ctx, r.Data)
				if err != nil {
					status, detail := tokens.KeyRefusal(err)
					return jetstream.ErrorReply(strconv.Itoa(status), detail)
				}
				return jetstream.Reply{Data: data}
			},
		})
	}
	return endpoints
}
