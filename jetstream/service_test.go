package jetstream_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

const refresh = "berth.v1.rpc.tokens.global.eu-west-1.refresh"

// serve runs a service of one endpoint until the test ends, or stop.
func serve(t *testing.T, c *jetstream.Conn, handler func(context.Context, jetstream.Request) jetstream.Reply, change ...func(*jetstream.ServiceConfig)) (stop func()) {
	t.Helper()
	cfg := jetstream.ServiceConfig{
		Name: "tokens", Version: "1.0.0", Description: "Token service",
		Endpoints: []jetstream.Endpoint{{Name: "refresh", Subject: refresh, Handler: handler}},
	}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Serve(ctx, cfg); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	jetstreamtest.Eventually(t, 5*time.Second, "the service answers", func() bool {
		_, err := c.NATS().Request("$SRV.PING."+cfg.Name, nil, time.Second)
		return err == nil && c.Flush(t.Context()) == nil
	})
	return stop
}

func TestCallIsAnswered(t *testing.T) {
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Dial(t, url)
	var deadlined atomic.Bool
	serve(t, jetstreamtest.Dial(t, url), func(ctx context.Context, r jetstream.Request) jetstream.Reply {
		_, ok := ctx.Deadline()
		deadlined.Store(ok && len(r.Header[api.HeaderDeadline]) == 1)
		return jetstream.Reply{Header: map[string][]string{"Berth-Status": {"200"}, "X-Echo": r.Header["X-Ask"]}, Data: append([]byte("re: "), r.Data...)}
	})
	reply, err := c.Call(t.Context(), refresh, map[string][]string{"X-Ask": {"a", "b"}}, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if string(reply.Data) != "re: hello" || reply.Header["Berth-Status"][0] != "200" || len(reply.Header["X-Echo"]) != 2 {
		t.Errorf("got %q, %v", reply.Data, reply.Header)
	}
	if !deadlined.Load() {
		t.Error("the request came without a deadline")
	}

	// The service shows in the tools of NATS. It counts a request after it has answered it.
	var stats micro.Stats
	jetstreamtest.Eventually(t, 5*time.Second, "the request is counted", func() bool {
		msg, err := c.NATS().Request("$SRV.STATS.tokens", nil, time.Second)
		return err == nil && json.Unmarshal(msg.Data, &stats) == nil && len(stats.Endpoints) == 1 &&
			stats.Endpoints[0].NumRequests == 1 && strings.Contains(string(stats.Endpoints[0].Data), `"answered":1`)
	})
}

// TestAnswersGoToInboxesAlone has a service answer on subjects that who asks may not publish on.
func TestAnswersGoToInboxesAlone(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	var served atomic.Int64
	serve(t, c, func(context.Context, jetstream.Request) jetstream.Reply {
		served.Add(1)
		return jetstream.Reply{Data: []byte("{}")}
	})
	for _, reply := range []string{"", "$KV.berth_sessions.global.s1", "berth.v1.revoked.eu-west-1", refresh, "INBOX.x"} {
		if err := c.NATS().PublishMsg(&nats.Msg{Subject: refresh, Reply: reply}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Call(t.Context(), refresh, nil, nil); err != nil { // comes after them
		t.Fatal(err)
	}
	if n := served.Load(); n != 1 {
		t.Errorf("%d requests were served, want the one with an inbox", n)
	}
	if _, _, err := c.Records().Get(t.Context(), sessions.Key{Jurisdiction: "global", Session: "s1"}); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("a record was written: %v", err)
	}
}

func TestInstancesShareTheRequests(t *testing.T) {
	url := jetstreamtest.Shared(t)
	var served [2]atomic.Int64
	for i := range served {
		serve(t, jetstreamtest.Dial(t, url), func(context.Context, jetstream.Request) jetstream.Reply {
			served[i].Add(1)
			return jetstream.Reply{}
		})
	}
	c := jetstreamtest.Dial(t, url)
	const calls = 60
	for range calls {
		if _, err := c.Call(t.Context(), refresh, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := served[0].Load(), served[1].Load(); a+b != calls || a == 0 || b == 0 {
		t.Errorf("served %d and %d of %d", a, b, calls)
	}
}

func TestCallFaults(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	c := jetstreamtest.Dial(t, r.ClientURL())
	if _, err := c.Call(t.Context(), refresh, nil, nil); !errors.Is(err, jetstream.ErrNoResponders) {
		t.Errorf("nobody there: %v, want ErrNoResponders", err)
	}
	release := make(chan struct{})
	var calls atomic.Int64
	stop := serve(t, jetstreamtest.Dial(t, r.ClientURL()), func(ctx context.Context, r jetstream.Request) jetstream.Reply {
		calls.Add(1)
		if string(r.Data) == "panic" {
			panic("planted")
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return jetstream.Reply{}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Call(ctx, refresh, nil, nil); !errors.Is(err, jetstream.ErrTimeout) {
		t.Errorf("no answer: %v, want ErrTimeout", err)
	}
	var fault *jetstream.ServiceError
	if _, err := c.Call(t.Context(), refresh, nil, []byte("panic")); !errors.As(err, &fault) || fault.Code != "500" {
		t.Errorf("handler that panics: %v, want a ServiceError 500", err)
	}
	// A request whose deadline has passed is not looked at.
	before := calls.Load()
	late := map[string][]string{api.HeaderDeadline: {time.Now().Add(-time.Second).Format(time.RFC3339Nano)}}
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Call(ctx, refresh, late, nil); !errors.Is(err, jetstream.ErrTimeout) {
		t.Errorf("late request: %v, want ErrTimeout", err)
	}
	if calls.Load() != before {
		t.Error("a request past its deadline was handled")
	}
	close(release)
	stop()
	if err := r.Shutdown(); err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the connection is down", func() bool { return !c.NATS().IsConnected() })
	if _, err := c.Call(t.Context(), refresh, nil, nil); !errors.Is(err, jetstream.ErrUnavailable) {
		t.Errorf("no connection: %v, want ErrUnavailable", err)
	}
}

func TestServiceBoundsItsConcurrency(t *testing.T) {
	url := jetstreamtest.Shared(t)
	var now, most atomic.Int64
	serve(t, jetstreamtest.Dial(t, url), func(context.Context, jetstream.Request) jetstream.Reply {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(2 * time.Millisecond)
		now.Add(-1)
		return jetstream.Reply{}
	}, func(cfg *jetstream.ServiceConfig) { cfg.Concurrency = 3 })
	c := jetstreamtest.Dial(t, url)
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, err := c.Call(t.Context(), refresh, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d requests at once, want 3", most.Load())
	}
}

func TestServiceFinishesWhatIsInFlight(t *testing.T) {
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Dial(t, url)
	started, release := make(chan struct{}, 8), make(chan struct{})
	stop := serve(t, jetstreamtest.Dial(t, url), func(ctx context.Context, r jetstream.Request) jetstream.Reply {
		if string(r.Data) == "probe" {
			return jetstream.Reply{}
		}
		started <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return jetstream.Reply{Data: []byte("done")}
	})
	replies := make(chan error, 4)
	for range cap(replies) {
		go func() {
			r, err := c.Call(t.Context(), refresh, nil, nil)
			if err == nil && string(r.Data) != "done" {
				err = errors.New("reply " + string(r.Data))
			}
			replies <- err
		}()
	}
	for range cap(replies) {
		<-started
	}
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	jetstreamtest.Eventually(t, 2*time.Second, "nothing new is taken", func() bool {
		_, err := c.Call(t.Context(), refresh, nil, []byte("probe"))
		return errors.Is(err, jetstream.ErrNoResponders)
	})
	close(release)
	for range cap(replies) {
		if err := <-replies; err != nil {
			t.Errorf("in flight: %v", err)
		}
	}
	<-stopped
}

func TestServiceConfigFaults(t *testing.T) {
	c := jetstreamtest.Dial(t, jetstreamtest.Shared(t))
	handler := func(context.Context, jetstream.Request) jetstream.Reply { return jetstream.Reply{} }
	good := []jetstream.Endpoint{{Name: "e", Subject: refresh, Handler: handler}}
	for name, cfg := range map[string]jetstream.ServiceConfig{
		"no endpoints": {Name: "a", Version: "1.0.0"},
		"no handler":   {Name: "a", Version: "1.0.0", Endpoints: []jetstream.Endpoint{{Name: "e", Subject: "s"}}},
		"bad name":     {Name: "a b", Version: "1.0.0", Endpoints: good},
		"bad version":  {Name: "a", Version: "one", Endpoints: good},
		"bad endpoint": {Name: "a", Version: "1.0.0", Endpoints: []jetstream.Endpoint{{Name: "e f", Subject: "s", Handler: handler}}},
		"concurrency":  {Name: "a", Version: "1.0.0", Endpoints: good, Concurrency: -1},
	} {
		if err := c.Serve(t.Context(), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestEveryInstanceHearsAndOneAnswers(t *testing.T) {
	url := jetstreamtest.Shared(t)
	c := jetstreamtest.Dial(t, url)
	every := func(cfg *jetstream.ServiceConfig) { cfg.Endpoints[0].Every = true }
	var heard atomic.Int64
	for i := range 3 {
		serve(t, jetstreamtest.Dial(t, url), func(context.Context, jetstream.Request) jetstream.Reply {
			heard.Add(1)
			return jetstream.Reply{Silent: i != 1, Data: []byte("the second")}
		}, every)
	}
	answered := 0
	jetstreamtest.Eventually(t, 10*time.Second, "all three hear each request", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		before := heard.Load()
		reply, err := c.Call(ctx, refresh, nil, nil)
		if err == nil && string(reply.Data) != "the second" {
			t.Fatalf("%q answers", reply.Data)
		}
		for ctx.Err() == nil && heard.Load() < before+3 {
			time.Sleep(time.Millisecond)
		}
		if err == nil && heard.Load() == before+3 {
			answered++
		}
		return answered == 10
	})
}

func TestErrorReply(t *testing.T) {
	url := jetstreamtest.Shared(t)
	serve(t, jetstreamtest.Dial(t, url), func(context.Context, jetstream.Request) jetstream.Reply {
		return jetstream.ErrorReply("400", "wrong\r\nin two lines")
	})
	_, err := jetstreamtest.Dial(t, url).Call(t.Context(), refresh, nil, nil)
	var fault *jetstream.ServiceError
	if !errors.As(err, &fault) || fault.Code != "400" || fault.Description != "wrong  in two lines" {
		t.Errorf("%v", err)
	}
}
