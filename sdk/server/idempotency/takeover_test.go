package idempotency_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens/api"
)

// TestRegionLost: a region dies, NATS and all. In its fallback region what it has answered is answered, what it has begun is
// unknown, and what it never had runs.
func TestRegionLost(t *testing.T) {
	t.Parallel()
	const lost, fallback = "eu-west-1", "us-east-1"
	fleet := jetstreamtest.NewFleet(t, nil, lost, fallback)
	open := func(region, other string, handler http.HandlerFunc) *site {
		conn := jetstreamtest.Dial(t, fleet.Regions[region].ClientURL())
		if err := conn.Provision(t.Context(), jetstream.Topology{Edges: []jetstream.Edge{{Region: other}}}); err != nil {
			t.Fatal(err)
		}
		return openSite(t, conn, handler, func(c *idempotency.Config) { c.Self.Region, c.Self.Server = region, region+"-a" })
	}
	dies := make(chan struct{})
	eu := open(lost, fallback, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Idempotency-Key") == "begun" {
			<-dies
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusCreated)
	})
	us := open(fallback, lost, nil)
	if got := eu.post("done", "x"); got.Status != 201 || got.Body != "" {
		t.Fatalf("%+v", got)
	}
	last := make(chan answer, 1)
	go func() {
		got, _ := eu.try(t.Context(), http.MethodPost, "/orders", "x", "Idempotency-Key: begun")
		last <- got
	}()
	for _, text := range []string{"done", "begun"} {
		key := idempotency.KeyOf(idempotency.Scope{Jurisdiction: events.GlobalJurisdiction, Holder: "s1"}, text)
		jetstreamtest.Eventually(t, 15*time.Second, "the copy of what is "+text, func() bool {
			list, err := us.store.Copies(t.Context(), key)
			return err == nil && len(list) == 1 && string(list[0].State) == text
		})
	}
	if err := fleet.Regions[lost].Shutdown(); err != nil {
		t.Fatal(err)
	}
	close(dies)
	// Its connection ends. Go's own client sends it again at once, because it has a key: the store is away.
	if got := <-last; got.Status != 0 && got.Code != api.CodeUnavailable {
		t.Errorf("the region's last request: %+v", got)
	}
	eu.wantRuns(2)
	if got := us.post("done", "x"); got.Status != 201 || got.Body != "" || !got.Replayed {
		t.Errorf("%+v", got)
	}
	if got := us.post("done", "y"); got.Code != api.CodeIdempotencyMismatch {
		t.Errorf("%+v", got)
	}
	if got := us.post("begun", "x"); got.Code != api.CodeOutcomeUnknown {
		t.Errorf("%+v", got)
	}
	us.wantRuns(0)
	if got := us.post("new", "x"); got.Body != "got x" {
		t.Errorf("%+v", got)
	}
}
