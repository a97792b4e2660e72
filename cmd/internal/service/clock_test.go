package service

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// TestClock compares clocks that agree, differ, and agree again.
func TestClock(t *testing.T) {
	var out bytes.Buffer
	var skew, within time.Duration
	var fault error
	c := &clock{
		skew: func(context.Context) (time.Duration, time.Duration, error) { return skew, within, fault },
		log:  slog.New(slog.NewTextHandler(&out, nil)),
	}
	for _, step := range []struct {
		name         string
		skew, within time.Duration
		fault        error
		ready        bool
	}{
		{"agrees", 2 * time.Millisecond, time.Millisecond, nil, true},
		{"at the bound", -5 * time.Second, 0, nil, true},
		{"far ahead", 40 * time.Second, time.Millisecond, nil, false},
		{"NATS away: the last word counts", 0, 0, errors.New("away"), false},
		{"far behind", -time.Minute, time.Millisecond, nil, false},
		{"a slow answer proves little", 6 * time.Second, 2 * time.Second, nil, true},
		{"agrees again", 0, time.Millisecond, nil, true},
	} {
		skew, within, fault = step.skew, step.within, step.fault
		if err := c.compare(t.Context()); !errors.Is(err, step.fault) {
			t.Errorf("%s: %v", step.name, err)
		}
		if err := c.ready(); (err == nil) != step.ready {
			t.Errorf("%s: ready says %v", step.name, err)
		}
	}
	if n := strings.Count(out.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d error lines, want one for each time the clock goes wrong:\n%s", n, out.String())
	}
}

// TestSkew compares this machine's clock with that of a NATS on it.
func TestSkew(t *testing.T) {
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	skew, within, err := conn.Skew(t.Context())
	if err != nil || skew.Abs() > within+time.Second {
		t.Errorf("skew %s within %s, %v", skew, within, err)
	}
}
