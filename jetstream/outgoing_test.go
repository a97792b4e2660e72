package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
)

// TestDataIsTheCallersAfterWait holds that a write is of what its data was, or is not at all, although the caller has
// waited for nothing and uses the data for something else.
func TestDataIsTheCallersAfterWait(t *testing.T) {
	t.Parallel()
	bucket := jetstreamtest.Provisioned(t, jetstreamtest.Start(t, embedded.RegionConfig{}).ClientURL()).Bucket(jetstream.BucketSessions)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	data := make([]byte, 1000)
	const writes = 500
	for i := range writes {
		value := byte('a' + i%26)
		for at := range data {
			data[at] = value
		}
		_, _ = bucket.Begin(fmt.Sprintf("global.s%d", i), data, 0, time.Hour).Wait(gone) // whatever has become of it
	}
	if _, err := bucket.Put(t.Context(), "global.last", []byte("z"), 0, time.Hour); err != nil {
		t.Fatal(err)
	}
	stored, err := bucket.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range writes {
		want := bytes.Repeat([]byte{byte('a' + i%26)}, len(data))
		if v, ok := stored[fmt.Sprintf("global.s%d", i)]; ok && !bytes.Equal(v.Data, want) {
			t.Errorf("write %d is %q, want %q", i, v.Data[:10], want[:10])
		}
	}
	t.Logf("%d of %d writes were done", len(stored)-1, writes)
}

// TestNobodyWaitsLongForWhatReadsNoMore stops NATS from reading while many write: nobody has waited longer than for one
// request, and one more that was being handed over.
func TestNobodyWaitsLongForWhatReadsNoMore(t *testing.T) { // by itself: others would make it wait, too
	server := jetstreamtest.Start(t, embedded.RegionConfig{})
	jetstreamtest.Provisioned(t, server.ClientURL())
	link := jetstreamtest.NewProxy(t, server.ClientURL())
	records := jetstreamtest.Dial(t, "nats://"+link.Addr(), func(c *jetstream.Config) { c.Options = []nats.Option{nats.IgnoreDiscoveredServers()} }).Records()
	t.Cleanup(link.Heal)
	now := time.Now().UTC()
	data := bytes.Repeat([]byte{'a'}, 4096)
	const writers, rounds = 512, 3
	waits := make([]time.Duration, 0, writers*rounds)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			rec := sessions.Record{Session: fmt.Sprintf("s%d", i), Jurisdiction: "global", ExpiresAt: now.Add(time.Hour)}
			for round := range rounds {
				if i == 0 && round == 1 {
					link.Blackhole()
				}
				<-time.After(time.Duration(rand.IntN(1000)) * time.Millisecond) // some write while others wait
				began := time.Now()
				_, _ = records.Begin(&rec, data, 0).Wait(t.Context()) // in doubt, or refused: it is how long that counts
				mu.Lock()
				waits = append(waits, time.Since(began))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(waits)
	t.Logf("%d writes, half of them within %s, all but ten within %s, the last after %s",
		len(waits), waits[len(waits)/2], waits[len(waits)-11], waits[len(waits)-1])
	if late := waits[len(waits)-11]; late > 3*time.Second {
		t.Errorf("a write came back after %s", late)
	}
}

// TestCloseSendsWhatIsLeft holds that what was published arrives, and in order, also if nobody waits.
func TestCloseSendsWhatIsLeft(t *testing.T) {
	t.Parallel()
	url := jetstreamtest.Start(t, embedded.RegionConfig{}).ClientURL()
	reader, writer := jetstreamtest.Provisioned(t, url), jetstreamtest.Dial(t, url)
	const sent = 3000
	for i := range sent {
		if _, err := writer.PublishAsync(fmt.Sprintf("berth.v1.session.%s.s%d", reader.Region(), i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream, err := reader.JetStream().Stream(t.Context(), jetstream.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "all are stored", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == sent
	})
	for _, i := range []int{0, 1, sent / 2, sent - 1} {
		msg, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("berth.v1.session.%s.s%d", reader.Region(), i); msg.Subject != want {
			t.Errorf("message %d is %s, want %s", i, msg.Subject, want)
		}
	}
	late, err := writer.PublishAsync("berth.v1.session."+reader.Region()+".late", nil)
	if err == nil {
		err = late.Wait(t.Context())
	}
	if !errors.Is(err, jetstream.ErrUnavailable) {
		t.Errorf("published after the end: %v, want %v", err, jetstream.ErrUnavailable)
	}
}
