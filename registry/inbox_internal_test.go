package registry

import (
	"testing"
	"time"

	"github.com/berthhq/berth/events"
)

// TestTheInboxIsBounded: what does not fit, by number or by size, is dropped and counts as a gap;
// elections and wishes, which come once, always have room. Once it was taken there is room again.
func TestTheInboxIsBounded(t *testing.T) {
	large := make([]byte, maxInboxBytes/4)
	tests := map[string]struct {
		fill   func(b *inbox)
		fitted int
	}{
		"by size": {func(b *inbox) {
			for range 5 {
				b.live("berth.v1.view.us-east-1", large)
			}
		}, 4},
		"by number": {func(b *inbox) {
			for range maxInbox + 1 {
				b.learned(Ticked{})
			}
		}, maxInbox},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newInbox()
			test.fill(b)
			b.learned(Elected{First: true})
			b.learned(WishesSeen{Revision: 7})
			items, gap := b.take()
			if len(items) != test.fitted+2 || !gap {
				t.Fatalf("%d items, gap %v, want %d, and a gap", len(items), gap, test.fitted+2)
			}
			if _, ok := items[test.fitted].event.(Elected); !ok {
				t.Errorf("%T, want the election", items[test.fitted].event)
			}
			if _, ok := items[test.fitted+1].event.(WishesSeen); !ok {
				t.Errorf("%T, want the wishes", items[test.fitted+1].event)
			}
			b.live("berth.v1.view.us-east-1", large)
			if items, gap := b.take(); len(items) != 1 || gap {
				t.Errorf("afterwards %d items, gap %v, want one and none", len(items), gap)
			}
		})
	}
}

// TestSayingsForgetWhoIsGone: what was told of servers that are not known any more is dropped in
// time; what was told lately, of those that are known, and of regions stays.
func TestSayingsForgetWhoIsGone(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	told := Sayings{}
	for id, at := range map[string]time.Time{"gone": now.Add(-2 * time.Hour), "known": now.Add(-2 * time.Hour), "lately": now} {
		told.Heard(&events.ServerState{Server: id, State: events.StateLeft, At: at})
	}
	told.Heard(&events.RegionState{Region: "us-east-1", State: regionDown, At: now.Add(-2 * time.Hour)})
	told.forget(now.Add(-time.Hour), func(server string) bool { return server == "known" })
	for who, want := range map[string]bool{"gone": false, "known": true, "lately": true, regionSaying("us-east-1"): true} {
		if _, there := told[who]; there != want {
			t.Errorf("%s is remembered: %v, want %v", who, there, want)
		}
	}
}
