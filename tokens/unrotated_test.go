package tokens_test

import (
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// leaderless is a token service whose connection to NATS can be cut, in fake time.
type leaderless struct {
	*fleet
	service *tokens.Service
	link    *jetstreamtest.Link
	other   *jetstream.Conn // never cut

	ids map[string]bool // of access tokens

	mu    sync.Mutex
	heard []string // kinds of session events
}

func withoutLeader(t *testing.T, fn func(t *testing.T, l *leaderless)) {
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		l := &leaderless{link: new(jetstreamtest.Link), other: connect(), ids: map[string]bool{}}
		l.fleet = newFleet(t, connect(l.link.Use), server("eu-west-1-a", dublin, "http://127.0.0.1:1"))
		l.service = l.fleet.service()
		stop, err := l.other.Subscribe(t.Context(), events.Subject{Kind: events.KindSession, Region: dublin}.Filter(), func(_ string, data []byte) {
			var e events.Session
			if json.Unmarshal(data, &e) == nil {
				l.mu.Lock()
				l.heard = append(l.heard, e.Kind)
				l.mu.Unlock()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		defer run(t, l.service)()
		fn(t, l)
	})
}

func (l *leaderless) refresh(token string) api.TokensReply {
	l.t.Helper()
	return granted(l.t, l.service, "/v1/refresh", api.RefreshRequest{RefreshToken: token})
}

// unrotated refreshes while the store is away: the client has to be left where it is.
func (l *leaderless) unrotated(token string) {
	l.t.Helper()
	began := time.Now()
	got := l.refresh(token)
	if took := time.Since(began); took > 4*time.Second {
		l.t.Errorf("the answer took %s", took)
	}
	if got.AccessToken == "" || got.RefreshToken != "" || got.Rotated || got.ServerChanged || got.Notice != nil ||
		got.Server.ID != "eu-west-1-a" || got.Decision != "stay" || got.Reason != "store_unavailable" || got.ExpiresIn != 120 {
		l.t.Errorf("%+v", got)
	}
	public := l.keys.Public()
	v := api.Verifier{Key: func(kid string) (ed25519.PublicKey, bool) { key, ok := public[kid]; return key, ok }, Issuer: issuer, Audience: issuer}
	claims, err := v.Access(got.AccessToken, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	if claims.ServerID != "eu-west-1-a" || claims.EpochRegion != dublin || claims.Epoch != 1 {
		l.t.Errorf("claims %+v", claims)
	}
	if l.ids[claims.ID] {
		l.t.Errorf("a second token of the id %s", claims.ID)
	}
	l.ids[claims.ID] = true
}

// TestUnrotated: while the store cannot be reached, a client goes on where it is, by the token
// that it has or the one before, for a minute past the last contact and no longer (V11). Nothing
// of that is held against it afterwards.
func TestUnrotated(t *testing.T) {
	t.Parallel() // it mostly waits
	withoutLeader(t, func(t *testing.T, l *leaderless) {
		first := login(t, l.service)
		second := l.refresh(first.RefreshToken)
		time.Sleep(5 * time.Minute) // nobody refreshes, and the contact is kept
		l.link.Cut()
		for range 4 { // each waits for the store
			l.unrotated(second.RefreshToken)
			l.unrotated(first.RefreshToken)
			time.Sleep(5 * time.Second)
		}
		refused(t, l.service, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken, FailedServerID: "eu-west-1-a"}, api.CodeUnavailable)
		time.Sleep(time.Minute)
		refused(t, l.service, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken}, api.CodeUnavailable)

		l.link.Heal()
		time.Sleep(10 * time.Second)
		third := l.refresh(second.RefreshToken)
		if !third.Rotated || third.RefreshToken == "" {
			t.Errorf("after the heal: %+v", third)
		}
		time.Sleep(time.Second)
		l.mu.Lock()
		defer l.mu.Unlock()
		counted := map[string]int{}
		for _, kind := range l.heard {
			counted[kind]++
		}
		if diff := cmp.Diff(map[string]int{"created": 1, "refreshed": 2, "unrotated": 8}, counted); diff != "" {
			t.Errorf("session events (-want +got):\n%s", diff)
		}
		if report := replayed(t, l.other, 11); report.NoRule != 8 {
			t.Errorf("replayed: %+v", report)
		}
	})
}

// TestUnrotatedNeedsProof: neither a service that has just begun nor one that does not know the
// session gives access by the token's word, and nobody is sent away for good by it.
func TestUnrotatedNeedsProof(t *testing.T) {
	t.Parallel() // it mostly waits
	withoutLeader(t, func(t *testing.T, l *leaderless) {
		first := login(t, l.service)
		begun := l.fleet.service()
		l.link.Cut()
		refused(t, begun, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken}, api.CodeUnavailable)
	})
}

// TestUnrotatedNotForTheRevoked: a session that another service has ended is not given access,
// nor one whose old token comes back; a thief's try ends no session either, for nothing is judged
// by memory.
func TestUnrotatedNotForTheRevoked(t *testing.T) {
	t.Parallel() // it mostly waits
	withoutLeader(t, func(t *testing.T, l *leaderless) {
		ended, alive := login(t, l.service), login(t, l.service)
		var tokens []string
		for range 3 {
			tokens = append(tokens, alive.RefreshToken)
			alive = l.refresh(alive.RefreshToken)
		}
		other := newFleet(t, l.other, server("eu-west-1-a", dublin, "http://127.0.0.1:1"))
		other.keys = l.keys
		if status, body, _ := post(t, other.service(), "/v1/logout", api.LogoutRequest{RefreshToken: ended.RefreshToken}); status != http.StatusNoContent {
			t.Fatalf("logout: %d %s", status, body)
		}
		time.Sleep(time.Second)
		l.link.Cut()
		refused(t, l.service, "/v1/refresh", api.RefreshRequest{RefreshToken: ended.RefreshToken}, api.CodeUnavailable)
		slices.Reverse(tokens)
		l.unrotated(tokens[0])
		for _, token := range tokens[1:] {
			refused(t, l.service, "/v1/refresh", api.RefreshRequest{RefreshToken: token}, api.CodeUnavailable)
		}
		l.link.Heal()
		time.Sleep(10 * time.Second)
		if rec := l.record(alive.SessionID); rec.State != sessions.StateActive {
			t.Errorf("the session is %s", rec.State)
		}
		refused(t, l.service, "/v1/refresh", api.RefreshRequest{RefreshToken: ended.RefreshToken}, api.CodeSessionRevoked)
	})
}
