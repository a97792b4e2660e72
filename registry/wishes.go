package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
)

// WishStore keeps what operators want of a region: one value, beside the lease.
//
// Get returns it as the last writer left it, revision 0 if there is none. Put writes it if the
// revision is still the one given; it fails with ErrFenced, wrapped, if somebody else has
// written. Any other error leaves open whether it was written. Both end with ctx. Watch calls
// fn with the value, empty if there is none, at first and whenever it has changed, one call at
// a time, in the order of the writes; anew says that what came before counts no more. It
// returns with ctx.
type WishStore interface {
	Get(ctx context.Context) (value []byte, revision uint64, err error)
	Put(ctx context.Context, value []byte, revision uint64) (uint64, error)
	Watch(ctx context.Context, fn func(value []byte, revision uint64, anew bool)) error
}

// Wishes are what operators want of a region. They are not changed once they are shown. nil:
// nothing.
type Wishes struct {
	Version int `json:"version"`
	// Role and Weight are the region's. Empty: active; nil: events.FullWeight.
	Role   events.Role `json:"role,omitempty"`
	Weight *int        `json:"weight,omitempty"`
	// Region drains every server of the region, Servers some of them by id.
	Region  *Drain           `json:"drain,omitempty"`
	Servers map[string]Drain `json:"servers,omitempty"`
	// At and By are of the last change. Nobody compares them: they are for people.
	At time.Time `json:"at"`
	By string    `json:"by,omitempty"`
}

// Drain is the wish that sessions leave: each at its next safe point, all of them from Until on.
type Drain struct {
	Until time.Time `json:"until"`
	At    time.Time `json:"at"`
	By    string    `json:"by,omitempty"`
}

// Bounds of wishes.
const (
	// DefaultDrain is the time for a drain that names none, MaxDrain the longest.
	DefaultDrain = 10 * time.Minute
	MaxDrain     = 7 * 24 * time.Hour
	// maxDrains bounds the servers that drain one by one, so that the value fits into a
	// message. A whole region is one drain.
	maxDrains = 2_000
	// maxBy is the length in bytes of who is said to have wished something.
	maxBy = 128
)

// WishesSeen is what operators want of the own region, as of a revision.
type WishesSeen struct {
	Wishes   *Wishes
	Revision uint64
	// Anew says that revisions of before mean nothing: all was read again.
	Anew bool
}

func (WishesSeen) event() {}

// errGarbled says that a stored value is not understood.
var errGarbled = errors.New("wishes are garbled")

// parseWishes reads a stored value; an empty one is no wish.
func parseWishes(data []byte) (*Wishes, error) {
	w := new(Wishes)
	if len(data) == 0 {
		return w, nil
	}
	if err := json.Unmarshal(data, w); err != nil {
		return nil, fmt.Errorf("%w: %w", errGarbled, err)
	}
	if !w.Role.Valid() || events.WeightOf(w.Weight) < 0 || events.WeightOf(w.Weight) > events.FullWeight {
		return nil, fmt.Errorf("%w: role %q, weight %d", errGarbled, w.Role, events.WeightOf(w.Weight))
	}
	return w, nil
}

// changed returns a copy to change, as by somebody now.
func (w *Wishes) changed(by string, now time.Time) *Wishes {
	c := *w
	c.Version, c.At, c.By = events.Version, now.UTC(), by
	c.Servers = maps.Clone(w.Servers)
	if c.Servers == nil {
		c.Servers = map[string]Drain{}
	}
	return &c
}

// drainOf returns when the drain of a server ends, its own or its region's: the earlier one.
func (w *Wishes) drainOf(id string) (until time.Time, wanted bool) {
	if w == nil {
		return time.Time{}, false
	}
	if w.Region != nil {
		until = w.Region.Until
	}
	if own, ok := w.Servers[id]; ok {
		until = earliest(until, own.Until)
	}
	return until.UTC(), !until.IsZero()
}

// region returns the region's role and weight.
func (w *Wishes) region() (events.Role, *int) {
	if w == nil {
		return "", nil
	}
	return w.Role, w.Weight
}

// earliest returns the earlier of two times, of which zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Orphans returns the servers that are to be drained but have been gone for long: nobody will
// take that wish back. now is a moment at which every server of the region that lives is known.
func (t *Table) Orphans(now time.Time) []string {
	if t.wishes == nil {
		return nil
	}
	var gone []string
	for id, d := range t.wishes.Servers {
		if _, known := t.own[id]; !known && now.Sub(d.At) >= t.detection.Keep {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	return gone
}
