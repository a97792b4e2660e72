package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// fleet is how many servers the benchmarks have.
const fleet = 10_000

// filled returns a table in which every server was heard once, and the next heartbeats.
func filled() (*registry.Table, []*events.Heartbeat) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	next := make([]*events.Heartbeat, fleet)
	for i := range next {
		id := fmt.Sprintf("eu-west-1-%05d", i)
		table.Reduce(live(beat(id, boot(1), 1, utilised(float64(i%50)/100))), start)
		next[i] = beat(id, boot(1), 2, utilised(float64(i%50)/100))
	}
	table.Tell(start)
	return table, next
}

// BenchmarkReduceHeartbeat folds heartbeats that are decoded already, in rounds over all
// servers.
func BenchmarkReduceHeartbeat(b *testing.B) {
	table, next := filled()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		h := next[i%fleet]
		table.Reduce(registry.HeartbeatSeen{Heartbeat: h}, start.Add(time.Duration(i)*100*time.Microsecond))
		h.Seq++
		i++
	}
}

// BenchmarkScanAndReduceHeartbeat adds reading the message, as the registry does.
func BenchmarkScanAndReduceHeartbeat(b *testing.B) {
	table, next := filled()
	messages := make([][]byte, 64)
	subject := next[0].Subject().String()
	for i := range messages {
		next[0].Seq++
		data, err := events.Encode(next[0])
		if err != nil {
			b.Fatal(err)
		}
		messages[i] = data
	}
	var h [2]events.Heartbeat
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		now, before := &h[i&1], &h[1-i&1]
		if !events.ScanHeartbeat(subject, messages[i%len(messages)], now, before) {
			b.Fatal("not scanned")
		}
		now.Seq = uint64(2 + i) // each is a newer one
		table.Reduce(registry.HeartbeatSeen{Heartbeat: now}, start)
		i++
	}
}

// BenchmarkSnapshot makes the view of all servers anew.
func BenchmarkSnapshot(b *testing.B) {
	table, _ := filled()
	var current atomic.Int64
	b.ReportAllocs()
	for b.Loop() {
		registry.NewView(table.Servers(), nil, &current, start)
	}
}

// BenchmarkChangedView makes the view after ten servers have changed, in one region and where
// they are spread over twelve.
func BenchmarkChangedView(b *testing.B) {
	for _, regions := range []int{1, 12} {
		b.Run(fmt.Sprintf("regions=%d", regions), func(b *testing.B) {
			list := make([]*events.Server, fleet)
			for i := range list {
				s := remote(fmt.Sprintf("s-%05d", i), 1)
				s.Region = fmt.Sprintf("region-%02d", i*regions/fleet)
				list[i] = &s
			}
			var current atomic.Int64
			series := registry.NewSeries(&current)
			series.All(list, start)
			changed := make([]*events.Server, 10)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				for i := range changed {
					v := *list[(n*10+i)%fleet]
					v.Load.Utilisation = float64(n%97) / 100
					changed[i] = &v
				}
				series.Next(changed, nil, start)
			}
		})
	}
}

// BenchmarkTick judges all servers, of which none is silent.
func BenchmarkTick(b *testing.B) {
	table, _ := filled()
	b.ReportAllocs()
	for b.Loop() {
		table.Reduce(registry.Ticked{}, start)
	}
}

// BenchmarkTellAll tells of all servers.
func BenchmarkTellAll(b *testing.B) {
	table, _ := filled()
	now := start
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Second)
		table.Reduce(registry.Gap{}, now)
		table.Tell(now)
	}
}

// BenchmarkViewRead reads all servers of a view.
func BenchmarkViewRead(b *testing.B) {
	table, _ := filled()
	view := viewOf(table)
	b.ReportAllocs()
	for b.Loop() {
		up := 0
		for _, s := range view.Servers {
			if s.State == events.StateUp {
				up++
			}
		}
		if up != fleet || view.Age(start) < 0 {
			b.Fatal("not all")
		}
	}
}

// BenchmarkViewServer looks a server up.
func BenchmarkViewServer(b *testing.B) {
	table, _ := filled()
	view := viewOf(table)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := view.Server("eu-west-1-07777"); !ok {
			b.Fatal("not found")
		}
	}
}

// BenchmarkFreshView makes the first view of a follower from what its watch brings.
func BenchmarkFreshView(b *testing.B) {
	entries := make([]registry.Entry, fleet)
	for i := range entries {
		s := remote(fmt.Sprintf("s-%05d", (i*7919)%fleet), uint64(i+1))
		s.Region = "eu-west-1"
		data, err := json.Marshal(&s)
		if err != nil {
			b.Fatal(err)
		}
		entries[i] = registry.Entry{Key: s.Key(), Value: data, Revision: uint64(i + 1)}
	}
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		f := registry.NewFollower(script(func(ctx context.Context, apply func([]registry.Entry, bool), _ func(time.Time)) error {
			apply(entries, true)
			<-ctx.Done()
			return nil
		}), func(*registry.View) { cancel() }, nil)
		if err := f.Run(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
