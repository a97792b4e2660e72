package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// TestRegistriesAnswer asks two registries of a region as other regions and operators do.
func TestRegistriesAnswer(t *testing.T) {
	url := jetstreamtest.Shared(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			ended <- service.RunRegistry(ctx, service.RegistryConfig{
				NATS: jetstream.Config{URL: url, Region: jetstreamtest.SharedRegion}, Log: jetstreamtest.Log(t),
			})
		}()
	}
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	c := jetstreamtest.Dial(t, url)
	ask := func(method, request string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		reply, err := c.Call(ctx, "berth.v1.rpc.registry.global."+jetstreamtest.SharedRegion+"."+method, nil, []byte(request))
		return reply.Data, err
	}
	jetstreamtest.Eventually(t, 10*time.Second, "a view", func() bool {
		data, err := ask(registry.MethodView, "{}")
		if err != nil {
			return false
		}
		_, err = events.Decode("berth.v1.view."+jetstreamtest.SharedRegion, data)
		return err == nil
	})
	jetstreamtest.Eventually(t, 10*time.Second, "a probe", func() bool {
		data, err := ask(registry.MethodProbe, `{"servers":["us-east-1-a"]}`)
		var reply registry.ProbeReply
		return err == nil && json.Unmarshal(data, &reply) == nil && reply.Outcomes["us-east-1-a"] == registry.OutcomeUnknown
	})
	for method, request := range map[string]string{registry.MethodProbe: `{"servers":[]}`, registry.MethodView: `{"part":2,"of":1}`} {
		_, err := ask(method, request)
		var fault *jetstream.ServiceError
		if !errors.As(err, &fault) || fault.Code != "400" || !strings.Contains(fault.Description, "want 1 to") {
			t.Errorf("%s %s: %v, want a service error that says what is wrong", method, request, err)
		}
	}
	msg, err := c.NATS().Request("$SRV.INFO.berth_registry", nil, time.Second)
	if err != nil || !strings.Contains(string(msg.Data), "Registry of region "+jetstreamtest.SharedRegion) {
		t.Errorf("nats micro info: %v", err)
	}
}
