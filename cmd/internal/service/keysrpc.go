package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/tokens"
)

// maxKeyRequests is how many requests about keys a token service handles at once; others wait.
const maxKeyRequests = 16

// keysService is the NATS service by which a region's keys are rotated. A token service answers there
// from its start on, also while it lacks the key to sign with and serves nobody else. It answers
// with plain JSON, or with a service error that says what is wrong.
func keysService(region string, methods map[string]tokens.KeyMethod) jetstream.ServiceConfig {
	cfg := jetstream.ServiceConfig{
		Name: "berth_keys", Version: "1.0.0", Description: fmt.Sprintf("Signing keys of region %s", region), Concurrency: maxKeyRequests,
	}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		m := methods[name]
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
			Name: name, Subject: TokensMethod(events.GlobalJurisdiction, region, name), Every: m.Every,
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
	return cfg
}
