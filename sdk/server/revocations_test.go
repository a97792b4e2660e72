package server

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
)

// TestRevocationsAreBoundedByTimeAlone ends far more sessions than a server may know of: each is
// refused for as long as a token of it may live, no floor makes way, and then all is forgotten.
func TestRevocationsAreBoundedByTimeAlone(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	const limit, ended = sessionShards * 8, 100_000
	table := newSessionTable(limit)
	epoch := events.Epoch{Number: 2, Region: "eu"}
	for i := range sessionShards {
		table.release(releasedAt(fmt.Sprintf("released-%d", i), epoch, "b"), now)
	}
	ids := make([]string, ended)
	for i := range ids {
		ids[i] = fmt.Sprintf("01k9zj4q8r5t6v7w8x9y%06d", i)
	}
	before := heap()
	for _, id := range ids {
		table.revoke(id, now)
	}
	t.Logf("%d revocations: %d bytes each besides the id", ended, (heap()-before)/ended)
	refused := func(id string, at time.Time) bool {
		c := claimsAt(id, epoch, own, at.Add(time.Minute))
		_, l := table.observe(c, at)
		return l.judge(c, own) != nil
	}
	last := now.Add(floorLife)
	for i, id := range ids {
		if i%100 == 0 && (!refused(id, now) || !refused(id, last)) {
			t.Fatalf("%s is served", id)
		}
	}
	for i := range sessionShards {
		if table.floor(fmt.Sprintf("released-%d", i)) != epoch {
			t.Errorf("floor %d made way", i)
		}
	}
	if n := table.evicted.Load(); n != 0 {
		t.Errorf("%d evicted", n)
	}
	for range sessionShards {
		table.sweep(own, now, last)
	}
	if n := table.ended(); n != ended {
		t.Errorf("%d are known in the last second, want all %d", n, ended)
	}
	for range sessionShards {
		table.sweep(own, now, last.Add(2*time.Second))
	}
	if n := table.ended(); n != 0 {
		t.Errorf("%d are known after their time", n)
	}
}

func (t *sessionTable) ended() (n int) {
	for i := range t.shards {
		n += len(t.shards[i].ended)
	}
	return n
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestRevocationHoldsForWhoHasTheLock is about a request that found its session before the
// revocation came, and about one that was forgotten for lack of room.
func TestRevocationHoldsForWhoHasTheLock(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	table := newSessionTable(sessionShards)
	c := claimsAt("s", events.Epoch{Number: 1, Region: "eu"}, own, now.Add(time.Minute))
	s, before := table.observe(c, now)
	table.revoke("s", now)
	if after := s.lock.Load(); after == before || after.judge(c, own) == nil {
		t.Errorf("who holds the session goes on: %+v", after)
	}
	for i := range 100 * sessionShards { // it gives way to others
		table.observe(claimsAt(fmt.Sprint(i), events.Epoch{Number: 1, Region: "eu"}, own, now.Add(2*time.Minute)), now)
	}
	if s.lock.Load() != nil {
		t.Fatal("the session was not forgotten")
	}
	if _, l := table.observe(c, now); l.judge(c, own) == nil {
		t.Error("a forgotten session has come to life again")
	}
}

func TestFloodOfRevocationsIsBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	const most = maxEnded / sessionShards
	r := revocations{}
	for i := range most {
		if r.add(fmt.Sprint(i), now) {
			t.Fatalf("number %d took another's place", i)
		}
	}
	if r.add("7", now) {
		t.Error("one that is known took another's place")
	}
	if !r.add("one more", now) || len(r) != most || !r.has("one more") {
		t.Errorf("%d revocations, at most %d", len(r), most)
	}
}
