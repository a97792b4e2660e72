package tokens_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// seeksContact reports whether a read is no session's, but only to find the store's leader there.
func seeksContact(key sessions.Key) bool { return key.Session == "_contact" }

// reads is a store that counts the reads of sessions.
type reads struct {
	sessions.Store
	n atomic.Int64
}

func (r *reads) Get(ctx context.Context, key sessions.Key) (sessions.Record, sessions.Revision, error) {
	if !seeksContact(key) {
		r.n.Add(1)
	}
	return r.Store.Get(ctx, key)
}

// TestKnownTokens: a token that the service has minted last is redeemed without a read; changed
// in any part it is refused as ever, and what another service has done counts.
func TestKnownTokens(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "https://a"))
	store := &reads{Store: f.conn.Records()}
	s := f.service(func(c *tokens.Config) { c.Store = store })
	other := f.service()
	first := login(t, s)
	refresh := func(token string) api.RefreshRequest { return api.RefreshRequest{RefreshToken: token} }

	for i, wrong := range tampered(t, first.RefreshToken) {
		p := refused(t, s, "/v1/refresh", refresh(wrong), api.CodeInvalidToken)
		if store.n.Load() > 0 {
			t.Errorf("change %d: the store was read: %+v", i, p)
		}
	}
	second := granted(t, s, "/v1/refresh", refresh(first.RefreshToken))
	third := granted(t, s, "/v1/refresh", refresh(second.RefreshToken))
	if n := store.n.Load(); n > 0 {
		t.Errorf("%d reads for known tokens", n)
	}
	if again := granted(t, s, "/v1/refresh", refresh(second.RefreshToken)); again.RefreshToken != third.RefreshToken || again.AccessToken != third.AccessToken {
		t.Error("a repeat got other tokens")
	}
	if store.n.Load() == 0 {
		t.Error("a repeat was answered without the store")
	}
	fourth := granted(t, other, "/v1/refresh", refresh(third.RefreshToken))
	if again := granted(t, s, "/v1/refresh", refresh(third.RefreshToken)); again.RefreshToken != fourth.RefreshToken {
		t.Error("two services gave one token two successors")
	}
	status, body, _ := post(t, other, "/v1/logout", api.LogoutRequest{RefreshToken: fourth.RefreshToken})
	if status != 204 {
		t.Fatalf("logout: %d %s", status, body)
	}
	refused(t, s, "/v1/refresh", refresh(fourth.RefreshToken), api.CodeSessionRevoked)
}

// TestRetiredKeyIsNotKnown: what a service has minted by a key that it no longer has is verified.
func TestRetiredKeyIsNotKnown(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "https://a"))
	store := &reads{Store: f.conn.Records()}
	s := f.service(func(c *tokens.Config) { c.Store = store })
	first := login(t, s)
	s.SetKeys(keyring(t, newKey(t)))
	second := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: first.RefreshToken})
	if store.n.Load() == 0 {
		t.Error("the record was not read")
	}
	store.n.Store(0)
	granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: second.RefreshToken})
	if n := store.n.Load(); n > 0 {
		t.Errorf("%d reads", n)
	}
}

// copyBox holds copies of sessions that the test lets arrive.
type copyBox struct {
	mu      sync.Mutex
	list    []sessions.Copy
	arrived func(key sessions.Key, region string, rec sessions.Record)
	reading func(on, missed bool)
	follows chan struct{}
}

func (h *copyBox) Copies(context.Context, sessions.Key) ([]sessions.Copy, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list), nil
}

func (h *copyBox) Follow(ctx context.Context, fn func(key sessions.Key, region string, rec sessions.Record), reading func(on, missed bool)) error {
	h.arrived, h.reading = fn, reading
	reading(true, true)
	close(h.follows)
	<-ctx.Done()
	return nil
}

func (*copyBox) All(context.Context, func(sessions.Key, string, sessions.Record)) error { return nil }

// following returns a service that follows copies, and the reads of its store.
func (f *fleet) following(t *testing.T) (*tokens.Service, *copyBox, *reads) {
	t.Helper()
	h, store := &copyBox{follows: make(chan struct{})}, &reads{Store: f.conn.Records()}
	s := f.service(func(c *tokens.Config) { c.Copies, c.Arrivals, c.Store = h, h, store })
	run(t, s)
	<-h.follows
	return s, h, store
}

// TestRegionWithoutEdgesRemembers: where no copies can come, none is waited for.
func TestRegionWithoutEdgesRemembers(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "https://a"))
	copies, store := f.conn.Copies(jetstream.CopiesConfig{Log: jetstreamtest.Log(t)}), &reads{Store: f.conn.Records()}
	s := f.service(func(c *tokens.Config) { c.Copies, c.Arrivals, c.Store = copies, copies, store })
	run(t, s)
	token := login(t, s).RefreshToken
	jetstreamtest.Eventually(t, 5*time.Second, "a refresh without a read", func() bool {
		before := store.n.Load()
		token = granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token}).RefreshToken
		return store.n.Load() == before
	})
}

// TestArrivingCopyIsFoldedAtOnce: a session is taken over elsewhere. From the moment at which the
// copy of that arrives its old token is not honoured by what is remembered.
func TestArrivingCopyIsFoldedAtOnce(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "https://a"))
	s, h, store := f.following(t)
	token := login(t, s).RefreshToken
	reply := granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token})
	if n := store.n.Load(); n > 0 {
		t.Fatalf("%d reads: the session is not remembered", n)
	}
	rec := f.record(reply.SessionID)
	rec.Epoch, rec.Gen = events.Epoch{Number: rec.Epoch.Number + 1, Region: singapore}, rec.Gen+1
	h.mu.Lock()
	h.list = []sessions.Copy{{Region: singapore, Record: rec}}
	h.mu.Unlock()
	h.arrived(rec.Key(), singapore, rec)

	refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: reply.RefreshToken}, api.CodeUnavailable) // Singapore is not there
	if own := f.record(reply.SessionID); own.State != sessions.StateMoved || own.Epoch != rec.Epoch {
		t.Errorf("the record is %s at %v", own.State, own.Epoch)
	}
}

// TestUnheardCopiesEmptyTheCache: where copies may have been missed, or come late, what is
// remembered is not gone by.
func TestUnheardCopiesEmptyTheCache(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "https://a"))
	s, h, store := f.following(t)
	token := login(t, s).RefreshToken
	refresh := func(reads int64, when string) {
		t.Helper()
		before := store.n.Load()
		token = granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token}).RefreshToken
		if n := store.n.Load() - before; n != reads {
			t.Errorf("%s: %d reads, want %d", when, n, reads)
		}
	}
	refresh(0, "remembered")
	h.reading(true, true)
	refresh(1, "after a gap")
	refresh(0, "remembered again")
	h.reading(false, false)
	refresh(1, "without arrivals")
	refresh(1, "still without")
	h.reading(true, false)
	refresh(1, "as they come again")
	refresh(0, "remembered at last")
}

// TestServiceWithoutCache: it serves all the same.
func TestServiceWithoutCache(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "https://a"))
	s := f.service(func(c *tokens.Config) { c.Cached = -1 })
	token := login(t, s).RefreshToken
	for range 3 {
		token = granted(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: token}).RefreshToken
	}
}

// tampered returns tokens that claim to be of the same session and are not the one.
func tampered(t *testing.T, token string) []string {
	t.Helper()
	parts := strings.Split(token, ".")
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	claims["sub"] = "mallory"
	if data, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	other := base64.RawURLEncoding.EncodeToString(data)
	flip := "A"
	if parts[2][:1] == flip {
		flip = "B"
	}
	return []string{
		parts[0] + "." + other + "." + parts[2],
		parts[0] + "." + parts[1] + "." + flip + parts[2][1:],
		parts[0] + "." + parts[1] + ".",
		parts[0] + "." + parts[1],
		"e30." + parts[1] + "." + parts[2],
		token + "A",
		strings.Repeat("x", 17<<10) + "." + parts[1] + "." + parts[2],
		".." + parts[1] + ".",
		"." + parts[1][:5] + "!.",
	}
}
