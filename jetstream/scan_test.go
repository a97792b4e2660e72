package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
)

// TestScanMissesNothing walks through a bucket in pages of odd sizes while its keys are written:
// each is seen, and one that is written meanwhile comes again.
func TestScanMissesNothing(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b, ctx := c.Bucket(jetstream.BucketSessions), t.Context()
	const keys = 700 // more than two batches
	revisions := map[string]uint64{}
	write := func(key string) {
		t.Helper()
		revision, err := b.Put(ctx, key, []byte(key), revisions[key], 0)
		if err != nil {
			t.Fatal(err)
		}
		revisions[key] = revision
	}
	for i := range keys {
		write(fmt.Sprintf("global.s%03d", i))
	}
	write("eu.other")
	end, err := b.End(ctx)
	if err != nil || end != keys+1 {
		t.Fatalf("end %d, %v", end, err)
	}
	seen := map[string]int{}
	pages, next := 0, uint64(0)
	for {
		n := 0
		next, err = b.Scan(ctx, "global.*", next, func(key string, v jetstream.Value) bool {
			if string(v.Data) != key || v.Written.IsZero() {
				t.Errorf("%s holds %q, written %v", key, v.Data, v.Written)
			}
			seen[key]++
			n++
			return n < 97
		})
		if err != nil || n > 97 {
			t.Fatalf("page %d: %d keys, %v", pages, n, err)
		}
		if pages++; next == 0 {
			break
		}
		if pages < 5 {
			write(fmt.Sprintf("global.s%03d", pages))     // seen already
			write(fmt.Sprintf("global.s%03d", 600+pages)) // to come
		}
	}
	if len(seen) != keys || seen["global.s001"] != 2 || seen["global.s601"] != 1 {
		t.Errorf("saw %d keys in %d pages, s001 %d times, s601 %d times", len(seen), pages, seen["global.s001"], seen["global.s601"])
	}
	stream, err := c.JetStream().Stream(ctx, "KV_"+jetstream.BucketSessions)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

func TestScanEnds(t *testing.T) {
	t.Parallel() // it mostly waits
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b := c.Bucket(jetstream.BucketSessions)
	none := func(string, jetstream.Value) bool { t.Error("a key of nothing"); return true }
	for _, from := range []uint64{0, 1, 1 << 40} {
		if next, err := b.Scan(t.Context(), "global.*", from, none); next != 0 || err != nil {
			t.Errorf("an empty bucket from %d: %d, %v", from, next, err)
		}
	}
	if end, err := b.End(t.Context()); end != 0 || err != nil {
		t.Errorf("end of an empty bucket: %d, %v", end, err)
	}
	// What expires between two pages is not waited for.
	if _, err := b.Put(t.Context(), "global.brief", []byte("x"), 0, time.Second); err != nil {
		t.Fatal(err)
	}
	if next, err := b.Scan(t.Context(), "global.*", 0, func(string, jetstream.Value) bool { return false }); next != 0 || err != nil {
		t.Errorf("the last key: %d, %v", next, err)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the key expires", func() bool {
		_, err := b.Get(t.Context(), "global.brief")
		return errors.Is(err, jetstream.ErrNotFound)
	})
	if next, err := b.Scan(t.Context(), "global.*", 0, none); next != 0 || err != nil {
		t.Errorf("after it expired: %d, %v", next, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Scan(ended, "global.*", 0, none); !errors.Is(err, jetstream.ErrUnavailable) {
		t.Errorf("with an ended context: %v", err)
	}
	if _, err := c.Bucket("nothing").Scan(t.Context(), ">", 0, none); err == nil {
		t.Error("a bucket that is none: no error")
	}
}

// TestWhatIsNoRecordIsNoBlankRecord puts values in the place of a record: none is read as a
// session that goes on.
func TestWhatIsNoRecordIsNoBlankRecord(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b := c.Bucket(jetstream.BucketSessions)
	values := []string{"", "{", "{}", `{"version":1}`, `{"version":1,"session":"other","jurisdiction":"global"}`, `{"version":1,"session":"s1","jurisdiction":"eu"}`}
	revision := uint64(0)
	for _, value := range values {
		var err error
		if revision, err = b.Put(t.Context(), "global.s1", []byte(value), revision, 0); err != nil {
			t.Fatal(err)
		}
		if rec, _, err := c.Records().Get(t.Context(), sessions.Key{Jurisdiction: "global", Session: "s1"}); !errors.Is(err, sessions.ErrUnavailable) {
			t.Errorf("%q is read as %+v, %v", value, rec, err)
		}
		next, err := c.Records().Scan(t.Context(), "global", 0, func(e tokens.Entry) bool {
			if e.Fault == nil || e.Key != "global.s1" {
				t.Errorf("%q is listed as %+v", value, e)
			}
			return true
		})
		if next != 0 || err != nil {
			t.Errorf("%q: %d, %v", value, next, err)
		}
	}
}

// TestScanReadsTheEndFromTheLeader has a replica that lags by a few values.
func TestScanReadsTheEndFromTheLeader(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	b := c.Bucket(jetstream.BucketSessions)
	for _, key := range []string{"global.a", "global.b", "eu.x", "global.c", "global.d"} {
		if _, err := b.Put(t.Context(), key, []byte(key), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		last     uint64
		most     int
		want     string
		at       uint64
		complete bool
	}{
		{1, 9, "[global.b global.c global.d]", 5, true},
		{2, 1, "[global.c]", 4, false},
		{4, 1, "[global.d]", 5, true},
		{5, 9, "[]", 5, true},
		{9, 9, "[]", 9, true},
	} {
		got := []string{}
		at, complete, err := b.ScanRest(t.Context(), "global.*", test.last, func(key string, v jetstream.Value) bool {
			if string(v.Data) != key {
				t.Errorf("%s holds %q", key, v.Data)
			}
			got = append(got, key)
			return len(got) < test.most
		})
		if err != nil || fmt.Sprint(got) != test.want || at != test.at || complete != test.complete {
			t.Errorf("from %d: %v at %d, complete %v, %v; want %s at %d, %v", test.last, got, at, complete, err, test.want, test.at, test.complete)
		}
	}
}
