package server_test

import (
	"context"
	"crypto/ed25519"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// offline is a connection that stands still: it keeps what is published and brings what the
// test says. It is for tests in fake time, where no socket may be.
type offline struct {
	mu        sync.Mutex
	published []published
	down      error
	heard     map[string]func(string, []byte)
	gap       func()
	reads     []time.Time
	readErr   error
}

// oneKeyID is the id of the key that oneKey brings.
const oneKeyID = region + ".key-1"

// oneKey is a watch that brings the keys of its signers and then stands still.
type oneKey []*signer

func (o oneKey) Watch(ctx context.Context, bucket string, apply func([]registry.Entry, bool), proof func(time.Time)) error {
	var entries []registry.Entry
	if bucket == jetstream.BucketKeys {
		for _, s := range o {
			data, err := api.NewKeySet(map[string]ed25519.PublicKey{s.kid: s.public()}).MarshalJSON()
			if err != nil {
				return err
			}
			entries = append(entries, registry.Entry{Key: s.kid, Value: data})
		}
	}
	apply(entries, true)
	proof(time.Now())
	<-ctx.Done()
	return ctx.Err()
}

type published struct {
	at        time.Time
	heartbeat *events.Heartbeat
}

func (o *offline) Publish(_ context.Context, subject string, data []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down != nil {
		return o.down
	}
	e, err := events.Decode(subject, data)
	if err != nil {
		return err
	}
	h, _ := e.(*events.Heartbeat)
	o.published = append(o.published, published{time.Now(), h})
	return nil
}

func (o *offline) Subscribe(_ context.Context, subject string, fn func(string, []byte)) (func(), error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down != nil {
		return nil, o.down
	}
	if o.heard == nil {
		o.heard = map[string]func(string, []byte){}
	}
	o.heard[subject] = fn
	return func() {}, nil
}

func (o *offline) OnGap(fn func()) func() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gap = fn
	return func() {}
}

func (o *offline) Read(_ context.Context, _ []string, since time.Time, _ func(string, []byte)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reads = append(o.reads, since)
	return o.readErr
}

func (o *offline) set(down, readErr error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down, o.readErr = down, readErr
}

// hears returns who hears a subject.
func (o *offline) hears(subject string) func(string, []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.heard[subject]
}

// hear has an event arrive.
func (o *offline) hear(t testing.TB, e events.Event) {
	t.Helper()
	o.hears(e.Subject().String())(e.Subject().String(), mustEncode(t, e))
}

// read returns how often the recent past was read, and from when on the last time.
func (o *offline) read() (n int, since time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n = len(o.reads); n > 0 {
		since = o.reads[n-1]
	}
	return n, since
}

func (o *offline) all() []published {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]published(nil), o.published...)
}

func (o *offline) config() server.Config {
	return server.Config{
		Server: self, Region: region, URL: "https://a.example.com", Capacity: 100, Issuer: issuer,
		Bus: o, Recent: o, Caller: &scripted{answer: func(context.Context, int64) (map[string][]string, []byte, error) {
			return nil, nil, nats.ErrNoResponders
		}}, Watcher: oneKey{},
	}
}

// run runs an agent in a bubble of fake time for as long as fn lasts.
func run(t *testing.T, c server.Config, fn func(a *server.Agent)) {
	t.Helper()
	a, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	synctest.Wait()
	fn(a)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
