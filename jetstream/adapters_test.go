package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
)

func TestServersAreFenced(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	s, ctx := c.Servers(), t.Context()
	revision, err := s.Put(ctx, "eu-west-1.a", []byte("up"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "eu-west-1.a", []byte("other"), 0); !errors.Is(err, registry.ErrFenced) {
		t.Errorf("a second writer: %v, want ErrFenced", err)
	}
	if revision, err = s.Put(ctx, "eu-west-1.a", []byte("down"), revision); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []registry.Entry{{Key: "eu-west-1.a", Value: []byte("down"), Revision: revision}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
	if _, err := s.Put(ctx, "eu-west-1.a", nil, revision); err != nil {
		t.Errorf("remove: %v", err)
	}
	if got, err := s.Load(ctx); err != nil || len(got) != 0 {
		t.Errorf("after the removal: %v, %v", got, err)
	}
	if _, err := s.Put(ctx, "eu-west-1.a", []byte("back"), 0); err != nil {
		t.Errorf("a removed server returns: %v", err)
	}
}

func TestRegistryWatches(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	if _, err := c.Servers().Put(t.Context(), "eu-west-1.a", []byte("up"), 0); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heard []string
	var proof time.Time
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, jetstream.BucketServers, func(entries []registry.Entry, complete bool) {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range entries {
				text := e.Key + "=" + string(e.Value)
				if complete {
					text += " (all)"
				}
				heard = append(heard, text)
			}
		}, func(at time.Time) {
			mu.Lock()
			defer mu.Unlock()
			proof = at
		})
	}()
	has := func(n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(heard) == n && time.Since(proof) < time.Second
		}
	}
	jetstreamtest.Eventually(t, 5*time.Second, "it has heard of the server", has(1))
	if _, err := c.Servers().Put(t.Context(), "eu-west-1.b", []byte("up"), 0); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "it has heard of the change", has(2))
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch: %v", err)
	}
	if diff := cmp.Diff([]string{"eu-west-1.a=up (all)", "eu-west-1.b=up"}, heard); diff != "" {
		t.Errorf("heard (-want +got):\n%s", diff)
	}
	if _, err := c.NewWatch(jetstream.WatchConfig{}); err == nil {
		t.Error("a watch of nothing: no error")
	}
}

func TestRecordsAreSessions(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	records, ctx := c.Records(), t.Context()
	now := time.Now().UTC().Truncate(time.Second)
	rec := sessions.Record{
		Version: sessions.RecordVersion, Session: "s1", Jurisdiction: "global", Subject: "ada", State: sessions.StateActive,
		Epoch: events.Epoch{Number: 1, Region: "eu-west-1"}, Gen: 1, StartedAt: now, ExpiresAt: now.Add(time.Hour),
	}
	if _, _, err := records.Get(ctx, rec.Key()); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("no record: %v, want ErrNotFound", err)
	}
	revision, err := records.Put(ctx, rec, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := records.Put(ctx, rec, 0); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("over a record: %v, want ErrConflict", err)
	}
	got, at, err := records.Get(ctx, rec.Key())
	if err != nil || at != revision {
		t.Fatalf("revision %d, %v; want %d", at, err, revision)
	}
	if diff := cmp.Diff(rec, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	// It is kept to its absolute end and a little longer.
	s, err := c.JetStream().Stream(ctx, "KV_berth_sessions")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := s.GetLastMsgForSubject(ctx, "$KV.berth_sessions.global.s1")
	if err != nil {
		t.Fatal(err)
	}
	life, err := time.ParseDuration(msg.Header.Get("Nats-TTL"))
	if want := time.Hour + sessions.Keep; err != nil || life > want+time.Second || life < want-10*time.Second {
		t.Errorf("life %v, %v; want %v", life, err, want)
	}
	expired, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := records.Get(expired, rec.Key()); !errors.Is(err, sessions.ErrUnavailable) {
		t.Errorf("ended context: %v, want ErrUnavailable", err)
	}
}

// TestKeyDocuments writes a key's document by compare-and-swap, reads it back and follows it.
func TestKeyDocuments(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	k := c.Keys()
	const kid = "eu-west-1.abc"
	if document, revision, err := k.Get(t.Context(), kid); document != nil || revision != 0 || err != nil {
		t.Errorf("nothing: %q, %d, %v", document, revision, err)
	}
	if err := k.Put(t.Context(), kid, []byte("{}"), 0); err != nil {
		t.Fatal(err)
	}
	if err := k.Put(t.Context(), kid, []byte("{ }"), 0); !errors.Is(err, tokens.ErrKeyChanged) {
		t.Errorf("over what is there: %v, want ErrKeyChanged", err)
	}
	document, revision, err := k.Get(t.Context(), kid)
	if string(document) != "{}" || err != nil {
		t.Fatalf("got %q, %v", document, err)
	}
	if err := k.Put(t.Context(), kid, []byte("{  }"), revision); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 8)
	done := make(chan error, 1)
	go func() {
		done <- k.Watch(ctx, func(documents map[string][]byte, complete bool) {
			for kid, document := range documents {
				got <- fmt.Sprint(kid, " ", string(document), " ", document == nil, " ", complete)
			}
		})
	}()
	await := func(want string) {
		t.Helper()
		select {
		case text := <-got:
			if text != want {
				t.Errorf("got %s, want %s", text, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s did not come", want)
		}
	}
	await(kid + " {  } false true")
	if _, revision, err = k.Get(t.Context(), kid); err != nil {
		t.Fatal(err)
	}
	if err := c.Bucket(jetstream.BucketKeys).Delete(t.Context(), kid, revision); err != nil {
		t.Fatal(err)
	}
	await(kid + "  true false")
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestGather asks all instances of a service, of which one fails, and a service that nobody is.
func TestGather(t *testing.T) {
	t.Parallel() // it mostly waits
	url := jetstreamtest.Shared(t)
	asker := jetstreamtest.Provisioned(t, url)
	const subject = "berth.v1.rpc.tokens.global.eu-west-1.keys_held"
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if got, err := asker.Gather(ctx, subject, nil); len(got) != 0 || err != nil || ctx.Err() != nil {
		t.Errorf("of nobody: %q, %v, %v", got, err, ctx.Err())
	}
	serving, stop := context.WithCancel(t.Context())
	ended := make(chan error, 3)
	var started sync.WaitGroup
	for i := range 3 {
		started.Add(1)
		conn := jetstreamtest.Dial(t, url)
		go func() {
			ended <- conn.Serve(serving, jetstream.ServiceConfig{
				Name: "holder", Version: "1.0.0", Started: started.Done,
				Endpoints: []jetstream.Endpoint{{Name: "held", Subject: subject, Every: true, Handler: func(context.Context, jetstream.Request) jetstream.Reply {
					if i == 2 {
						return jetstream.ErrorReply("500", "no")
					}
					return jetstream.Reply{Data: []byte{'0' + byte(i)}}
				}}},
			})
		}()
	}
	defer func() {
		stop()
		for range 3 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}()
	started.Wait()
	ask, end := context.WithTimeout(t.Context(), time.Second)
	defer end()
	got, err := asker.Gather(ask, subject, nil)
	slices.SortFunc(got, bytes.Compare)
	if diff := cmp.Diff([][]byte{{'0'}, {'1'}}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestRegionalServerReadsRecentEvents(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	r := c.Regional()
	const subject = "berth.v1.lock.eu-west-1.a.released"
	if err := c.Publish(t.Context(), subject, []byte("1")); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := r.Read(t.Context(), []string{subject}, time.Now().Add(-time.Minute), func(subject string, data []byte) {
		got = append(got, subject+" "+string(data))
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{subject + " 1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, _, err := r.Call(t.Context(), refresh, nil, nil); !errors.Is(err, jetstream.ErrNoResponders) {
		t.Errorf("call of nobody: %v, want ErrNoResponders", err)
	}
}
