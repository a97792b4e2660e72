package server

import (
	"math"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
)

func TestUtilisation(t *testing.T) {
	tests := []struct {
		name     string
		load     events.Load
		capacity int
		want     float64
	}{
		{"idle", events.Load{}, 100, 0},
		{"sessions", events.Load{Sessions: 50, InFlight: 1, MaxInFlight: 10, CPU: 0.1}, 100, 0.5},
		{"in flight", events.Load{Sessions: 50, InFlight: 9, MaxInFlight: 10, CPU: 0.1}, 100, 0.9},
		{"processors", events.Load{Sessions: 50, InFlight: 1, MaxInFlight: 10, CPU: 0.8}, 100, 1},
		{"overload", events.Load{Sessions: 150}, 100, 1.5},
		{"bound of requests unknown", events.Load{Sessions: 10, InFlight: 1000}, 100, 0.1},
	}
	for _, test := range tests {
		if got := Utilisation(test.load, test.capacity); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestUtilisationIsSmoothed(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := newMeter()
	m.cpu.root = fstest.MapFS{}
	m.sample(100, 100, 0, now) // the first is taken as it is
	if got := m.last().Utilisation; got != 1 {
		t.Errorf("at first %v, want 1", got)
	}
	for range 5 {
		now = now.Add(time.Second)
		m.sample(0, 100, 0, now)
	}
	if got, want := m.last().Utilisation, 1/math.E; math.Abs(got-want) > 1e-9 {
		t.Errorf("5 s after the load has gone %v, want %v", got, want)
	}
}

func TestP99(t *testing.T) {
	var w window
	if got := p99Of(&w); got != 0 {
		t.Errorf("of nothing %v, want 0", got)
	}
	for i := range 1000 {
		w.add(time.Duration(i+1) * time.Millisecond)
	}
	if got := p99Of(&w); got < 990 || got > 990*1.125 {
		t.Errorf("p99 of 1 to 1000 ms: %v ms, want 990, at most an eighth more", got)
	}
	w.clear()
	w.add(math.MaxInt64)
	w.add(-time.Second)
	if got := p99Of(&w); got < 1000 {
		t.Errorf("p99 of an endless request: %v ms", got)
	}
}

func TestStepsCoverAllDurations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Uint64Range(0, 1<<33).Draw(t, "us")
		s := step(us)
		if s < 255 && (top(s) < us || s > 0 && top(s-1) >= us) {
			t.Fatalf("%d µs in step %d, which ends at %d and begins after %d", us, s, top(s), top(s-1))
		}
		if s < 255 && us > 0 && float64(top(s)) > float64(us)*1.125 {
			t.Fatalf("%d µs read as %d", us, top(s))
		}
	})
}

func TestP99IsOfTheLastWindows(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := newMeter()
	m.cpu.root = fstest.MapFS{}
	m.sample(0, 1, 0, now)
	m.windows[m.current.Load()].add(2 * time.Second)
	var seen []bool
	for range 4 {
		now = now.Add(windowLife)
		m.sample(0, 1, 0, now)
		seen = append(seen, m.last().P99 >= 2000)
	}
	if !seen[0] || !seen[1] || seen[2] || seen[3] {
		t.Errorf("a slow request shows in samples %v, want in the first two", seen)
	}
}

func TestInFlightIsMeasured(t *testing.T) {
	m := newMeter()
	m.cpu.root = fstest.MapFS{}
	m.begin()
	m.begin()
	m.sample(0, 1, 4, time.Now())
	if got := m.last(); got.InFlight != 2 || got.Utilisation != 0.5 {
		t.Errorf("%+v, want 2 in flight of 4", got)
	}
	m.done(time.Now())
	m.done(time.Now())
	m.sample(0, 1, 4, time.Now())
	if got := m.last().InFlight; got != 0 {
		t.Errorf("%d in flight after the last has ended", got)
	}
}

func TestCPU(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	tests := []struct {
		name          string
		before, after fstest.MapFS
		want          float64
	}{
		{
			"a quota of half a processor, of which half is used",
			fstest.MapFS{
				"proc/self/cgroup":                 file("0::/berth/api\n"),
				"sys/fs/cgroup/berth/api/cpu.max":  file("50000 100000\n"),
				"sys/fs/cgroup/berth/api/cpu.stat": file("usage_usec 1000000\nuser_usec 900000\n"),
			},
			fstest.MapFS{
				"proc/self/cgroup":                 file("0::/berth/api\n"),
				"sys/fs/cgroup/berth/api/cpu.max":  file("50000 100000\n"),
				"sys/fs/cgroup/berth/api/cpu.stat": file("usage_usec 1250000\nuser_usec 900000\n"),
			},
			0.5,
		},
		{
			"a container's own root, more used than a reading can hold",
			fstest.MapFS{
				"proc/self/cgroup":       file("0::/\n"),
				"sys/fs/cgroup/cpu.max":  file("200000 100000\n"),
				"sys/fs/cgroup/cpu.stat": file("usage_usec 0\n"),
			},
			fstest.MapFS{
				"proc/self/cgroup":       file("0::/\n"),
				"sys/fs/cgroup/cpu.max":  file("200000 100000\n"),
				"sys/fs/cgroup/cpu.stat": file("usage_usec 9000000\n"),
			},
			1,
		},
		{
			"no quota: the machine",
			fstest.MapFS{
				"proc/self/cgroup":       file("0::/\n"),
				"sys/fs/cgroup/cpu.max":  file("max 100000\n"),
				"sys/fs/cgroup/cpu.stat": file("usage_usec 0\n"),
				"proc/stat":              file("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n"),
			},
			fstest.MapFS{
				"proc/self/cgroup":       file("0::/\n"),
				"sys/fs/cgroup/cpu.max":  file("max 100000\n"),
				"sys/fs/cgroup/cpu.stat": file("usage_usec 0\n"),
				"proc/stat":              file("cpu  150 0 100 800 150 0 0 0 99 0\ncpu0 1 2 3\n"),
			},
			0.25,
		},
		{"nothing to read", fstest.MapFS{}, fstest.MapFS{}, 0},
		{"nonsense", fstest.MapFS{"proc/stat": file("cpu one two\n")}, fstest.MapFS{"proc/stat": file("")}, 0},
		{
			"version 1 of cgroups",
			fstest.MapFS{"proc/self/cgroup": file("4:cpu:/a\n3:memory:/a\n"), "proc/stat": file("cpu 0 0 0 100 0\n")},
			fstest.MapFS{"proc/self/cgroup": file("4:cpu:/a\n3:memory:/a\n"), "proc/stat": file("cpu 100 0 0 200 0\n")},
			0.5,
		},
	}
	for _, test := range tests {
		m := cpuMeter{root: test.before}
		if got := m.share(at); got != 0 {
			t.Errorf("%s: %v at first, want 0", test.name, got)
		}
		m.root = test.after
		if got := m.share(at.Add(time.Second)); math.Abs(got-test.want) > 1e-6 {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
