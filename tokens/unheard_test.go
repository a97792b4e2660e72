package tokens_test

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// TestReleaseIsRepeated takes a session over from a region that is cut off, whose token services
// are gone: nobody there can tell its server but the region that took it, which does so until the
// old owner shows that it knows. It does so also if its own token service was started anew meanwhile.
func TestReleaseIsRepeated(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, restart := range map[string]bool{"by the service that took it": false, "by the next life of it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegions(t, dublin, singapore)
			first := login(t, r.services[dublin])
			// It passes this on, and knows Dublin's key from then on.
			second := granted(t, r.services[singapore], "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
			r.awaitCopy(t, singapore, first.SessionID, 2)
			r.kill[dublin]()
			r.nats.Links[dublin].Cut()
			third := r.takenOver(t, singapore, second.RefreshToken)
			if third.Reason != "region_down" {
				t.Fatalf("%s %s to %+v", third.Decision, third.Reason, third.Server)
			}
			if restart {
				r.kill[singapore]()
				r.start(t, singapore)
			}
			// A refresh later the answer does not say any more where the session was.
			third = granted(t, r.services[singapore], "/v1/refresh", api.RefreshRequest{RefreshToken: third.RefreshToken})

			var last atomic.Pointer[events.LockReleased]
			heard := r.hearAll(t, dublin, "berth.v1.lock.*.*.released", func(e events.Event) {
				if e, ok := e.(*events.LockReleased); ok {
					last.Store(e)
				}
			})
			r.nats.Links[dublin].Heal()
			jetstreamtest.Eventually(t, time.Minute, "the old server is told, twice", func() bool { return heard.n.Load() >= 2 })
			e := last.Load()
			if e.Region != dublin || e.Server != dublin+"-a" || e.Session != first.SessionID || e.To.Server != third.Server.ID ||
				e.Epoch.Compare(events.Epoch{Number: 2, Region: singapore}) < 0 {
				t.Errorf("released: %+v", e)
			}
			if state, _ := r.state(dublin, first.SessionID); state != sessions.StateActive {
				t.Fatalf("the old owner is %s already", state)
			}

			// It ends once the old owner, which is back, shows that it knows.
			r.start(t, dublin)
			r.await(t, dublin, first.SessionID, sessions.StateMoved)
			jetstreamtest.Eventually(t, time.Minute, "nothing is unsettled", func() bool {
				return r.services[singapore].Unsettled() == 0
			})
		})
	}
}

// awaitCopy waits until a region has a copy of a session, of a generation at least.
func (r *regions) awaitCopy(t *testing.T, region, session string, gen uint64) {
	t.Helper()
	copies := r.fleets[region].conn.Copies(jetstream.CopiesConfig{Log: jetstreamtest.Log(t)})
	jetstreamtest.Eventually(t, 10*time.Second, "a copy of the session", func() bool {
		list, err := copies.Copies(t.Context(), sessions.Key{Jurisdiction: "global", Session: session})
		return err == nil && len(list) == 1 && list[0].Record.Gen >= gen
	})
}

// takenOver refreshes in a region until it has taken the session over.
func (r *regions) takenOver(t *testing.T, region, token string) (reply api.TokensReply) {
	t.Helper()
	jetstreamtest.Eventually(t, 30*time.Second, "a takeover", func() bool {
		status, body, _ := post(t, r.services[region], "/v1/refresh", api.RefreshRequest{RefreshToken: token})
		if status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Fatalf("status %d: %s", status, body)
		}
		return status == http.StatusOK && json.Unmarshal(body, &reply) == nil
	})
	return reply
}

// hearAll hands over the events that come on a subject in a region, and counts them.
func (r *regions) hearAll(t *testing.T, region, subject string, fn func(events.Event)) *counter {
	t.Helper()
	var h counter
	stop, err := r.fleets[region].conn.Subscribe(t.Context(), subject, func(subject string, data []byte) {
		if e, err := events.Decode(subject, data); err == nil {
			fn(e)
			h.n.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &h
}
