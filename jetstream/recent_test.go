package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// TestStored reads what a stream has, from a time on, in order, as far as it is wanted.
func TestStored(t *testing.T) {
	t.Parallel() // it mostly waits
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	publish := func(subject string, from, n int) {
		t.Helper()
		for i := range n {
			if err := c.Publish(t.Context(), subject, fmt.Appendf(nil, `%d`, from+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish("berth.v1.decision.eu-west-1.stay.already_best", 0, 3)
	since := time.Now()
	publish("berth.v1.decision.eu-west-1.move.login", 3, 1500)
	publish("berth.v1.session.eu-west-1.created", 0, 2)
	for _, test := range []struct {
		subject string
		since   time.Time
		most    int
		from    int
		want    int
	}{
		{"berth.v1.decision.eu-west-1.*.*", since, 1 << 20, 3, 1500},
		{"berth.v1.decision.eu-west-1.*.*", since.Add(-time.Hour), 1 << 20, 0, 1503},
		{"berth.v1.decision.eu-west-1.*.*", since, 7, 3, 7},
		{"berth.v1.decision.eu-west-1.stay.*", since.Add(-time.Hour), 1 << 20, 0, 3},
		{"berth.v1.decision.eu-west-1.*.*", time.Now().Add(time.Hour), 1, 0, 0},
	} {
		var got, want []string
		for i := range test.want {
			want = append(want, fmt.Sprint(test.from+i))
		}
		err := c.Stored(t.Context(), jetstream.StreamEvents, test.subject, test.since, func(m jetstream.Message, left uint64) bool {
			got = append(got, string(m.Data))
			if test.most > test.want && int(left) != test.want-len(got) {
				t.Errorf("%s: %d left after %d of %d", test.subject, left, len(got), test.want)
			}
			return len(got) < test.most
		})
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", test.subject, err, diff)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Stored(ended, jetstream.StreamEvents, "berth.v1.decision.>", since, func(jetstream.Message, uint64) bool { return true }); !errors.Is(err, jetstream.ErrUnavailable) && !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := c.Stored(t.Context(), "NONE", "berth.v1.decision.>", since, nil); err == nil {
		t.Error("a stream that is not there was read")
	}
}
