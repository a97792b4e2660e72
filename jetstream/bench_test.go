package jetstream_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/embedded"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// BenchmarkPut is one compare-and-swap after another on one key, in a file, over TCP.
func BenchmarkPut(b *testing.B) {
	r := jetstreamtest.Start(b, embedded.RegionConfig{})
	bucket := jetstreamtest.Provisioned(b, r.ClientURL()).Bucket(jetstream.BucketSessions)
	data := make([]byte, 800)
	var revision uint64
	for b.Loop() {
		var err error
		if revision, err = bucket.Put(b.Context(), "global.s1", data, revision, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFreshWatch is the time until a new watch has handed over 10 000 servers.
func BenchmarkFreshWatch(b *testing.B) {
	const servers = 10_000
	r := jetstreamtest.Start(b, embedded.RegionConfig{})
	c := jetstreamtest.Provisioned(b, r.ClientURL())
	bucket := c.Bucket(jetstream.BucketServers)
	writes := make([]*jetstream.Write, servers)
	for i := range writes {
		writes[i] = bucket.Begin(fmt.Sprintf("eu-west-1.s%d", i), make([]byte, 450), 0, 0)
	}
	for _, w := range writes {
		if _, err := w.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		all := make(chan int, 1)
		w, err := c.NewWatch(jetstream.WatchConfig{Bucket: jetstream.BucketServers, Apply: func(u jetstream.Update) { all <- len(u.Entries) }})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		if n := <-all; n != servers {
			b.Fatalf("%d entries, want %d", n, servers)
		}
		b.StopTimer()
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		b.StartTimer()
	}
}

// BenchmarkChange is the time from the start of a write until a watch hands it over.
func BenchmarkChange(b *testing.B) {
	r := jetstreamtest.Start(b, embedded.RegionConfig{})
	url := r.ClientURL()
	bucket := jetstreamtest.Provisioned(b, url).Bucket(jetstream.BucketServers)
	changes := make(chan struct{}, 1)
	w, err := jetstreamtest.Dial(b, url).NewWatch(jetstream.WatchConfig{Bucket: jetstream.BucketServers, Apply: func(jetstream.Update) {
		changes <- struct{}{}
	}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	<-changes
	var revision uint64
	for b.Loop() {
		if revision, err = bucket.Put(b.Context(), "eu-west-1.a", make([]byte, 450), revision, 0); err != nil {
			b.Fatal(err)
		}
		<-changes
	}
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
}
