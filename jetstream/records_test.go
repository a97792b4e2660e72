package jetstream_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
)

// record returns a session of the region's that ends at a time.
func record(id string, end time.Time) sessions.Record {
	return sessions.Record{
		Version: sessions.RecordVersion, Session: id, Jurisdiction: "global", Subject: "ada", State: sessions.StateActive,
		Epoch: events.Epoch{Number: 1, Region: "eu-west-1"}, Gen: 1, StartedAt: end.Add(-time.Hour), ExpiresAt: end,
	}
}

// TestBucketShrinks runs in fake time: each session leaves the bucket 5 min after its absolute end, however often it was
// refreshed before.
func TestBucketShrinks(t *testing.T) {
	t.Parallel() // it mostly waits
	jetstreamtest.Bubble(t, func(t *testing.T, connect func(...func(*jetstream.Config)) *jetstream.Conn) {
		c := connect()
		records, ctx := c.Records(), t.Context()
		began := time.Now()
		const list = 20
		revisions := make([]sessions.Revision, list)
		recs := make([]sessions.Record, list)
		for i := range list {
			recs[i] = record(fmt.Sprint("s", i), began.Add(time.Duration(i+1)*time.Hour))
		}
		stored := func() uint64 {
			s, err := c.JetStream().Stream(ctx, "KV_"+jetstream.BucketSessions)
			if err != nil {
				t.Fatal(err)
			}
			return s.CachedInfo().State.Msgs
		}
		for round := range 3 {
			for i := range list {
				var err error
				recs[i].Gen = uint64(round + 1)
				if revisions[i], err = records.Put(ctx, recs[i], revisions[i]); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
		}
		for i := range list {
			time.Sleep(time.Until(recs[i].ExpiresAt.Add(sessions.Keep - time.Second)))
			if n := stored(); n != uint64(list-i) {
				t.Fatalf("%s: %d sessions are kept, want %d", time.Since(began), n, list-i)
			}
			if got, _, err := records.Get(ctx, recs[i].Key()); err != nil || got.Gen != 3 {
				t.Errorf("a session within its life: %+v, %v", got, err)
			}
			time.Sleep(3 * time.Second)
			if _, _, err := records.Get(ctx, recs[i].Key()); !errors.Is(err, sessions.ErrNotFound) {
				t.Errorf("a session past its life: %v", err)
			}
		}
		if n := stored(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// script answers the writes of a bucket that no stream has, one text each, and the last for ever.
func script(t *testing.T, c *jetstream.Conn, bucket string, answers ...string) (asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	sub, err := c.NATS().Subscribe("$KV."+bucket+".>", func(msg *nats.Msg) {
		n := int(asked.Add(1))
		if got := msg.Header.Get("Nats-Expected-Last-Subject-Sequence"); got != "7" {
			t.Errorf("write %d expects revision %s", n, got)
		}
		_ = msg.Respond([]byte(answers[min(n, len(answers))-1]))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return asked
}

// TestFalseConflictsAreRetried: a replicated stream says now and then that another write of the key is in process, of a
// write that nothing conflicts with.
func TestFalseConflictsAreRetried(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	const busy = `{"error":{"code":500,"err_code":10164,"description":"last sequence by subject mismatch"},"stream":"KV_a","seq":0}`
	stored := fmt.Sprintf(`{"stream":"KV_a", "seq":9, "domain":%q}`, c.Region())
	asked := script(t, c, "retried", busy, busy, busy, stored)
	revision, err := c.Bucket("retried").Put(t.Context(), "global.s1", []byte("x"), 7, time.Hour)
	if err != nil || revision != 9 || asked.Load() != 4 {
		t.Errorf("revision %d, %v, after %d writes; want 9 after 4", revision, err, asked.Load())
	}
	asked = script(t, c, "refused", busy)
	_, err = c.Bucket("refused").Put(t.Context(), "global.s1", []byte("x"), 7, time.Hour)
	if !errors.Is(err, jetstream.ErrConflict) || asked.Load() < 3 || asked.Load() > 10 {
		t.Errorf("%v after %d writes, want ErrConflict", err, asked.Load())
	}
	const true10071 = `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 8"}}`
	asked = script(t, c, "conflict", true10071)
	if _, err = c.Bucket("conflict").Put(t.Context(), "global.s1", []byte("x"), 7, time.Hour); !errors.Is(err, jetstream.ErrConflict) || asked.Load() != 1 {
		t.Errorf("%v after %d writes, want ErrConflict after one", err, asked.Load())
	}
}

// TestAcknowledgementsOfAllForms: what a stream may say is understood, and what is none of its answers is no success.
func TestAcknowledgementsOfAllForms(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	domain, err := json.Marshal(c.Region())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		answer string
		ok     bool
	}{
		{`{"stream":"KV_a","seq":9,"domain":` + string(domain) + `}`, true},
		{`{"domain":` + string(domain) + `,"seq":9,"stream":"KV_a"}`, true},
		{`{"stream":"KV_a","seq":9,"domain":` + string(domain) + `,"duplicate":true,"val":"1","future":{"a":[]}}`, true},
		{`{"stream":"KV_\u0061","seq":9,"domain":` + string(domain) + `}`, true},
		{`{"stream":"KV_a","seq":9,"domain":"another"}`, false},
		{`{"stream":"KV_a","seq":9}`, false},
		{`{"stream":"KV_a","seq":-9,"domain":` + string(domain) + `}`, false},
		{`{"error":{"code":503,"err_code":10008}}`, false},
		{`stored`, false},
		{`{}`, false},
	} {
		bucket := fmt.Sprint("form", i)
		script(t, c, bucket, want.answer)
		revision, err := c.Bucket(bucket).Put(t.Context(), "global.s1", []byte("x"), 7, time.Hour)
		if (err == nil) != want.ok || want.ok && revision != 9 {
			t.Errorf("%s: revision %d, %v", want.answer, revision, err)
		}
	}
}
