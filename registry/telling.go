package registry

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
)

// How often others are told of the own region's servers.
const (
	// tellEvery is the least time between two view updates.
	tellEvery = 50 * time.Millisecond
	// beatEvery is the most time between two view updates: they also say that the region is
	// there.
	beatEvery = time.Second
	// fullEvery is how often all servers are told of.
	fullEvery = 30 * time.Second
	// refreshEvery is how long a value stays as it was told while nothing worth telling
	// changes: its time of sight, small changes of load, positions of replication.
	refreshEvery = 30 * time.Second
	// seqLeap is what a start adds to the highest sequence that it finds: more than the
	// updates that can have gone out since that was written.
	seqLeap = 1000
	// loadStep is the change of utilisation that is worth telling.
	loadStep = 0.02
)

// telling is what a table has still to tell: to the bucket of the own region, and to other
// regions by view updates.
type telling struct {
	// seq is the sequence of the last view update.
	seq uint64
	// dueOwn are the own servers that changed, urgent says that one of them did so in more
	// than its load, and dueNow are those that did. dueKeys are the keys of other regions'
	// servers that changed, and of all that are gone.
	dueOwn, dueNow []*server
	urgent         bool
	dueKeys        map[string]struct{}
	// fullDue asks for a full update before its time.
	fullDue        bool
	toldAt, fullAt time.Time
	// changes counts what was told.
	changes uint64
}

// told is what was last told of a server.
type told struct {
	at          time.Time
	utilisation float64
	capacity    int
	// due says that it has changed since, dueNow that it did so in more than its load; ahead
	// that the bucket was told of it, ahead of the update.
	due, dueNow, ahead bool
}

// toldAhead reports whether the bucket has what the update of this sequence says of a server.
func (s *server) toldAhead(seq uint64) bool {
	return s.ahead && !s.dueNow && s.shown.Seq == seq && s.shown.SeenAt.Equal(s.value.SeenAt) &&
		s.shown.Load == s.value.Load && s.shown.Capacity == s.value.Capacity
}

// Told is what a table has to tell.
type Told struct {
	// Updates are for other regions, in order.
	Updates []*events.ViewUpdate
	// Values are for the bucket; the keys in Gone are to be removed from it.
	Values []*events.Server
	Gone   []string
}

// Changes counts the changes that were told, and so what a reader of the servers would notice.
func (t *Table) Changes() uint64 { return t.changes }

// counted takes note of a sequence that the region's view updates have reached elsewhere.
func (t *Table) counted(seq uint64) {
	if seq <= maxSequence {
		t.seq = max(t.seq, seq)
	}
}

// due marks an own server as changed.
func (t *Table) due(s *server, urgent bool) {
	if urgent {
		t.urgent = true
		if !s.dueNow {
			s.dueNow = true
			t.dueNow = append(t.dueNow, s)
		}
	}
	if !s.due {
		s.due = true
		t.dueOwn = append(t.dueOwn, s)
	}
}

// dueKey marks a server of another region as changed, or any as gone.
func (t *Table) dueKey(key string) {
	t.changes++
	t.show(key)
	t.dueKeys[key] = struct{}{}
}

// weigh marks a server as changed if the difference to before, or to the load that was last
// told, is worth it. The step is from what was told, so a load that swings about a border
// between two steps is not told time and again.
func (t *Table) weigh(s *server, before *events.Server) {
	v := &s.value
	switch {
	case v.URL != before.URL || v.HealthURL != before.HealthURL || v.AuthURL != before.AuthURL ||
		v.Boot != before.Boot || v.Location != before.Location:
		t.due(s, true)
	case v.Capacity != s.capacity || v.IntervalMS != before.IntervalMS ||
		math.Abs(v.Load.Utilisation-s.utilisation) >= loadStep:
		if !s.due {
			t.due(s, false)
		}
	}
}

// Tell returns what is due to be told. Changes of other regions are due at once; of the own,
// a change of state at once, but for updates at most every 50 ms; of load each second, and
// everything every 30 s. Each value has the sequence of the update that brings it.
func (t *Table) Tell(now time.Time) Told {
	var out Told
	t.tellKeys(&out)
	since := now.Sub(t.toldAt)
	beat := since >= beatEvery
	if soon := t.urgent && since >= tellEvery; !beat && !soon {
		t.tellNow(&out)
		return out
	}
	t.dueNow = t.dueNow[:0] // all are due
	if beat {
		t.refresh(now)
	}
	slices.SortFunc(t.dueOwn, func(a, b *server) int { return strings.Compare(a.value.Server, b.value.Server) })
	// Where states change all the time there is no beat.
	full := now.Sub(t.fullAt)
	if (beat || full >= 5*beatEvery) && (t.fullDue || full >= fullEvery) {
		t.tellAll(&out, now)
	} else {
		t.tellDue(&out, now)
	}
	t.dueOwn, t.urgent, t.toldAt = t.dueOwn[:0], false, now
	return out
}

// tellNow tells the bucket of own servers ahead of the update that is to bring them.
func (t *Table) tellNow(out *Told) {
	for _, s := range t.dueNow {
		s.dueNow = false
		if !s.removed {
			s.value.Seq, s.ahead = t.seq+1, true
			t.changes++
			t.showOwn(s)
			out.Values = append(out.Values, s.shown)
		}
	}
	t.dueNow = t.dueNow[:0]
}

// tellKeys tells the bucket of other regions' servers, and of those that are gone.
func (t *Table) tellKeys(out *Told) {
	for _, key := range sortedKeys(t.dueKeys) {
		if v := t.get(key); v != nil {
			out.Values = append(out.Values, v)
		} else {
			out.Gone = append(out.Gone, key)
		}
	}
	clear(t.dueKeys)
}

// get returns the server under a key of the bucket, nil if there is none.
func (t *Table) get(key string) *events.Server {
	region, id, _ := strings.Cut(key, ".")
	if s, ok := t.own[id]; ok && region == t.region {
		return t.copied(s)
	}
	if o, ok := t.others[region]; ok {
		if at, ok := o.find(id); ok {
			return o.shown(o.servers[at])
		}
	}
	return nil
}

// refresh marks servers as changed whose values are old, at most twice as many as come due
// on average: so those that began together do not stay together.
func (t *Table) refresh(now time.Time) {
	most := 1 + 2*len(t.order)*int(beatEvery)/int(refreshEvery)
	for _, s := range t.order {
		if most > 0 && !s.due && now.Sub(s.at) >= refreshEvery {
			t.due(s, false)
			most--
		}
	}
}

// tellAll tells of every own server, in parts that share a sequence.
func (t *Table) tellAll(out *Told, now time.Time) {
	t.seq++
	for _, s := range t.dueOwn {
		t.stamp(out, s, now)
	}
	parts := split(t.order)
	for i, part := range parts {
		u := t.newUpdate(part, now)
		u.Full, u.Part, u.Of = true, i+1, len(parts)
		out.Updates = append(out.Updates, u)
	}
	t.fullAt, t.fullDue = now, false
}

// tellDue tells of the own servers that changed; if there is none, of how far the count is.
func (t *Table) tellDue(out *Told, now time.Time) {
	due := slices.DeleteFunc(t.dueOwn, func(s *server) bool { return s.removed })
	for len(due) > 0 {
		n := fitting(due)
		t.seq++
		for _, s := range due[:n] {
			t.stamp(out, s, now)
		}
		out.Updates = append(out.Updates, t.newUpdate(due[:n], now))
		due = due[n:]
	}
	if len(out.Updates) == 0 {
		out.Updates = append(out.Updates, t.newUpdate(nil, now))
	}
}

// stamp gives a server's value the present sequence and tells the bucket of it.
func (t *Table) stamp(out *Told, s *server, now time.Time) {
	if s.removed {
		return
	}
	known := s.toldAhead(t.seq)
	s.value.Seq = t.seq
	s.told = told{at: now, utilisation: s.value.Load.Utilisation, capacity: s.value.Capacity}
	if known {
		return
	}
	t.changes++
	t.showOwn(s)
	out.Values = append(out.Values, s.shown)
}

func (t *Table) newUpdate(list []*server, now time.Time) *events.ViewUpdate {
	u := &events.ViewUpdate{
		Version: events.Version, Region: t.region, Seq: t.seq, At: now.UTC(), Part: 1, Of: 1,
		Servers: make([]events.Server, len(list)), Sees: t.Sees(now), RTTMs: t.RTTs(), Demand: t.Demand(now),
	}
	u.Role, u.Weight = t.wishes.region()
	for i, s := range list {
		u.Servers[i] = s.value
	}
	return u
}

// split cuts a list into parts that fit into a message each; at least one.
func split(list []*server) [][]*server {
	var parts [][]*server
	for len(list) > 0 {
		n := fitting(list)
		parts, list = append(parts, list[:n]), list[n:]
	}
	if parts == nil {
		parts = [][]*server{nil}
	}
	return parts
}

// Bounds of the sizes of messages as JSON, in bytes.
const (
	envelope     = 72 << 10 // an update without its servers: it speaks of up to maxRegions others three times
	serverFields = 1 << 10  // a server without its URLs and positions
	escaped      = 6        // what a byte of a string becomes at most
)

// fitting returns how many servers from the start of a list fit into one message, at least
// one. A heartbeat is far smaller than a message, so one always fits.
func fitting(list []*server) int {
	size := envelope
	for i, s := range list {
		v := &s.value
		size += serverFields + escaped*(len(v.URL)+len(v.HealthURL)+len(v.AuthURL))
		for region, position := range v.Replication {
			size += serverFields/8 + escaped*(len(region)+len(position))
		}
		if size > events.MaxViewPart && i > 0 {
			return i
		}
	}
	return len(list)
}
