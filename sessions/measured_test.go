package sessions_test

import (
	"testing"
	"time"

	"github.com/berthhq/berth/sessions"
)

// TestMeasuredCounts: what a client has measured counts for a day, and what it tells anew at once.
func TestMeasuredCounts(t *testing.T) {
	m := &sessions.Measured{Told: noon}
	for after, want := range map[time.Duration]*sessions.Measured{-time.Minute: m, 0: m, sessions.MeasuredFor - 1: m, sessions.MeasuredFor: nil} {
		if got := m.At(noon.Add(after)); got != want {
			t.Errorf("after %s: %+v", after, got)
		}
	}
	if got := (*sessions.Measured)(nil).At(noon); got != nil {
		t.Errorf("of none: %+v", got)
	}

	b := newBench(t)
	told := func(gen uint64, m *sessions.Measured) *sessions.Measured {
		t.Helper()
		out, err := b.ask(sessions.Request{Token: at(1, gen), Measured: m})
		if err != nil || !out.Written {
			t.Fatalf("refresh %d: %+v, %v", gen, out, err)
		}
		return out.Record.Measured
	}
	one, two := &sessions.Measured{Told: b.now}, &sessions.Measured{Told: b.now.Add(2 * time.Hour)}
	for i, step := range []struct {
		tell, want *sessions.Measured
		wait       time.Duration
	}{
		{nil, nil, time.Hour},
		{one, one, time.Hour},
		{nil, one, 0},
		{two, two, 23 * time.Hour},
		{nil, two, time.Hour},
		{nil, nil, 0},
	} {
		if got := told(uint64(i+1), step.tell); (got == nil) != (step.want == nil) || got != nil && !got.Told.Equal(step.want.Told) {
			t.Errorf("refresh %d remembers %+v, want %+v", i+1, got, step.want)
		}
		b.now = b.now.Add(step.wait)
	}
}
