package jetstream_test

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

func itoa(n int) string { return strconv.Itoa(n) }

// configs returns the configuration of every stream, by name.
func configs(t *testing.T, c *jetstream.Conn) map[string]natsjs.StreamConfig {
	t.Helper()
	got := map[string]natsjs.StreamConfig{}
	list := c.JetStream().ListStreams(t.Context())
	for info := range list.Info() {
		got[info.Config.Name] = info.Config
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestProvisionMakesTheContract(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	type row struct {
		Subjects string
		Storage  natsjs.StorageType
		NoAck    bool
		PerKey   int64
		MaxAge   time.Duration
		MaxBytes int64
		Direct   bool
		TTL      bool
	}
	got := map[string]row{}
	for name, s := range configs(t, c) {
		got[name] = row{strings.Join(s.Subjects, " "), s.Storage, s.NoAck, s.MaxMsgsPerSubject, s.MaxAge, s.MaxBytes, s.AllowDirect, s.AllowMsgTTL}
		if s.Description == "" {
			t.Errorf("%s has no description", name)
		}
		if s.Replicas != 1 {
			t.Errorf("%s has %d replicas, want 1", name, s.Replicas)
		}
	}
	want := map[string]row{
		"BERTH_HEARTBEATS": {"berth.v1.heartbeat.eu-west-1.*", natsjs.MemoryStorage, true, 1, time.Minute, 256 << 20, true, false},
		"BERTH_EVENTS": {
			"berth.v1.server.eu-west-1.*.* berth.v1.region.*.* berth.v1.decision.eu-west-1.*.* " +
				"berth.v1.session.eu-west-1.* berth.v1.lock.eu-west-1.*.released berth.v1.revoked.*",
			natsjs.FileStorage, false, -1, 168 * time.Hour, 10 << 30, true, false,
		},
		"BERTH_VIEWS":          {"berth.v1.view.* berth.v1.sight.eu-west-1.*", natsjs.FileStorage, false, -1, 24 * time.Hour, 4 << 30, true, false},
		"KV_berth_servers":     {"$KV.berth_servers.>", natsjs.FileStorage, false, 1, 0, -1, true, true},
		"KV_berth_sessions":    {"$KV.berth_sessions.>", natsjs.FileStorage, false, 1, 0, -1, false, true},
		"KV_berth_registry":    {"$KV.berth_registry.>", natsjs.FileStorage, false, 1, 0, -1, false, false},
		"KV_berth_orgs":        {"$KV.berth_orgs.>", natsjs.FileStorage, false, 1, 0, -1, false, false},
		"KV_berth_policy":      {"$KV.berth_policy.>", natsjs.FileStorage, false, 1, 0, -1, false, false},
		"KV_berth_idempotency": {"$KV.berth_idempotency.>", natsjs.FileStorage, false, 1, 0, 1 << 30, false, true},
		"KV_berth_keys":        {"$KV.berth_keys.>", natsjs.FileStorage, false, 1, 0, -1, false, false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("streams (-want +got):\n%s", diff)
	}

	// The buckets are buckets to every other client.
	for _, bucket := range []string{jetstream.BucketServers, jetstream.BucketSessions, jetstream.BucketKeys, jetstream.BucketOrgs, jetstream.BucketPolicy, jetstream.BucketIdempotency} {
		kv, err := c.JetStream().KeyValue(t.Context(), bucket)
		if err != nil {
			t.Errorf("%s: %v", bucket, err)
			continue
		}
		rev, err := kv.Put(t.Context(), "a.b", []byte("x"))
		if err != nil {
			t.Errorf("%s: put: %v", bucket, err)
		}
		if e, err := kv.Get(t.Context(), "a.b"); err != nil || e.Revision() != rev {
			t.Errorf("%s: get: %v, %v", bucket, e, err)
		}
	}
}

func TestProvisionByManyAtOnce(t *testing.T) {
	url := jetstreamtest.Shared(t)
	var wg sync.WaitGroup
	for range 4 {
		c := jetstreamtest.Dial(t, url)
		wg.Go(func() {
			for range 2 {
				if err := c.Provision(t.Context(), jetstream.Topology{}); err != nil {
					t.Errorf("provision: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(configs(t, jetstreamtest.Dial(t, url))); n != 10 {
		t.Errorf("%d streams, want 10", n)
	}
}

func TestProvisionUpdatesAndKeeps(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	if err := c.Provision(t.Context(), jetstream.Topology{EventAge: time.Hour, ViewBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	// An operator's own settings, and limits that the next service says nothing of, stay.
	events := configs(t, c)["BERTH_EVENTS"]
	events.Metadata = map[string]string{"team": "edge"}
	events.Description = "changed"
	if _, err := c.JetStream().UpdateStream(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	if err := c.Provision(t.Context(), jetstream.Topology{}); err != nil {
		t.Fatal(err)
	}
	got := configs(t, c)
	if e := got["BERTH_EVENTS"]; e.MaxAge != time.Hour || e.MaxBytes != 10<<30 || e.Metadata["team"] != "edge" || e.Description == "changed" {
		t.Errorf("BERTH_EVENTS: age %v, bytes %d, metadata %v, description %q", e.MaxAge, e.MaxBytes, e.Metadata, e.Description)
	}
	if v := got["BERTH_VIEWS"]; v.MaxBytes != 1<<20 || v.MaxAge != 24*time.Hour {
		t.Errorf("BERTH_VIEWS: age %v, bytes %d", v.MaxAge, v.MaxBytes)
	}
}

// TestProvisionAddsSubjects: a stream of a version that recorded less keeps what it holds, and gets the rest.
func TestProvisionAddsSubjects(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	before := configs(t, c)["BERTH_VIEWS"]
	before.Subjects = before.Subjects[:1]
	if _, err := c.JetStream().UpdateStream(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), "berth.v1.view.eu-west-1", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := c.Provision(t.Context(), jetstream.Topology{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), "berth.v1.sight.eu-west-1.x", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if n := counts(t, c, jetstream.StreamViews)[jetstream.StreamViews]; n != 2 {
		t.Errorf("%d messages, want the old and the new", n)
	}
}

func TestProvisionRefusesWhatCannotChange(t *testing.T) {
	tests := map[string]struct {
		have     natsjs.StreamConfig
		topology jetstream.Topology
		want     []string
	}{
		"storage": {
			natsjs.StreamConfig{Name: "BERTH_EVENTS", Subjects: []string{"berth.v1.server.>"}, Storage: natsjs.MemoryStorage},
			jetstream.Topology{},
			[]string{"stream BERTH_EVENTS", "storage: Memory → File"},
		},
		"subjects of another stream": {
			natsjs.StreamConfig{Name: "MINE", Subjects: []string{"berth.v1.view.>"}},
			jetstream.Topology{},
			[]string{"stream BERTH_VIEWS", "subjects overlap"},
		},
		"replicas on a lone node": {
			natsjs.StreamConfig{Name: "MINE"},
			jetstream.Topology{Replicas: 3},
			[]string{"stream BERTH_HEARTBEATS", "replicas > 1"},
		},
		"no sensible replicas": {
			natsjs.StreamConfig{Name: "MINE"},
			jetstream.Topology{Replicas: 2},
			[]string{"replicas 2"},
		},
		"no sensible age": {
			natsjs.StreamConfig{Name: "MINE"},
			jetstream.Topology{EventAge: -time.Second},
			[]string{"event age"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := jetstreamtest.Dial(t, jetstreamtest.Shared(t))
			if _, err := c.JetStream().CreateStream(t.Context(), test.have); err != nil {
				t.Fatal(err)
			}
			err := c.Provision(t.Context(), test.topology)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}
}

func TestProvisionWithoutSpace(t *testing.T) {
	t.Parallel() // it mostly waits
	r := jetstreamtest.Start(t, embedded.RegionConfig{MaxStore: 1 << 20})
	err := jetstreamtest.Dial(t, r.ClientURL()).Provision(t.Context(), jetstream.Topology{})
	if err == nil || !strings.Contains(err.Error(), "stream BERTH_EVENTS (storage: File, max_bytes: 10737418240") {
		t.Errorf("got %v, want an error that names the stream and its size", err)
	}
}

func TestProvisionWithoutADomain(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{Adjust: func(o *server.Options) { o.JetStreamDomain = "" }})
	err := jetstreamtest.Dial(t, r.ClientURL()).Provision(t.Context(), jetstream.Topology{})
	if err == nil || !strings.Contains(err.Error(), "no JetStream domain") {
		t.Errorf("got %v, want an error about the domain", err)
	}
	_, err = jetstream.Dial(t.Context(), jetstream.Config{URL: r.ClientURL(), Role: "test", Region: "eu-west-1"})
	if err == nil || !strings.Contains(err.Error(), `its JetStream domain is "", not the region "eu-west-1"`) {
		t.Errorf("got %v, want an error about the domain", err)
	}
}

func TestStreamsInMemoryComeBackAfterARestart(t *testing.T) {
	r := jetstreamtest.Start(t, embedded.RegionConfig{})
	c := jetstreamtest.Provisioned(t, r.ClientURL())
	jetstreamtest.Restart(t, r)
	jetstreamtest.Eventually(t, 10*time.Second, "all streams are there again", func() bool {
		if !c.NATS().IsConnected() {
			return false
		}
		_, err := c.JetStream().Stream(t.Context(), jetstream.StreamHeartbeats)
		return err == nil
	})
}

func TestProvisionInACluster(t *testing.T) {
	t.Parallel() // it mostly waits
	cluster := jetstreamtest.NewCluster(t, "eu-west-1", 3)
	c := jetstreamtest.Dial(t, cluster.URL(), func(cfg *jetstream.Config) { cfg.Region = "eu-west-1" })
	if err := c.Provision(t.Context(), jetstream.Topology{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	for name, s := range configs(t, c) {
		if s.Replicas != 3 {
			t.Errorf("%s has %d replicas, want 3", name, s.Replicas)
		}
	}
}

func TestBubbleRunsInFakeTime(t *testing.T) {
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		c := connect()
		began := time.Now()
		if err := c.NATS().Publish("berth.v1.heartbeat.eu-west-1.a", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		s, err := c.JetStream().Stream(t.Context(), jetstream.StreamHeartbeats)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().State.Msgs; n != 1 {
			t.Errorf("%d heartbeats after 59 s, want 1", n)
		}
		time.Sleep(3 * time.Second)
		info, err := s.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs != 0 {
			t.Errorf("%d heartbeats after %v, want none", info.State.Msgs, time.Since(began))
		}
	})
}

// TestProvisionTogether makes the streams from several services at once in a NATS that has room for them once only: what
// one is just reserving is no reason for another to give up.
func TestProvisionTogether(t *testing.T) {
	t.Parallel() // it mostly waits
	for range 5 {
		r := jetstreamtest.Start(t, embedded.RegionConfig{MaxMemory: 256 << 20})
		failed := make(chan error, 4)
		for range cap(failed) {
			conn := jetstreamtest.Dial(t, r.ClientURL())
			go func() { failed <- conn.Provision(t.Context(), jetstream.Topology{}) }()
		}
		for range cap(failed) {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
	}
}
