package registry

import (
	"time"

	"github.com/berthhq/berth/events"
)

// ViewDue asks for the whole view of another region, from its registry; a ViewAnswered is
// awaited.
type ViewDue struct{ Region string }

// ViewAnswered is what came of a ViewDue: the region's whole view as one full update, nil if
// there was no answer.
type ViewAnswered struct {
	Region string
	Update *events.ViewUpdate
}

func (ViewDue) effect()     {}
func (ViewAnswered) event() {}

// When another region is asked for its whole view.
const (
	// lateUpdate is how long an update may be overtaken by later ones before it counts as lost.
	lateUpdate = 200 * time.Millisecond
	// returnGrace is how long a region that is back in reach has to tell everything unasked.
	returnGrace = time.Second
	// lostPart is how long the parts of a full update may be apart.
	lostPart = time.Second
	// askEvery is the least time from one question to the next; each that was in vain doubles
	// it, to askSeldom at most: by then everything is told again anyway.
	askEvery  = time.Second
	askSeldom = fullEvery
	// lostAnswer is how long an answer is awaited.
	lostAnswer = 30 * time.Second
	// maxMissing bounds the updates that are awaited one by one.
	maxMissing = 256
)

// missing is what has not arrived of a region's updates.
type missing struct {
	// seqs are updates that later ones have overtaken. whole says that everything is missing,
	// as of the update upTo at least. since is when that began.
	seqs  map[uint64]struct{}
	whole bool
	upTo  uint64
	since time.Time
	// asking says that the region is being asked, asked since when; vain counts the times in a
	// row that this did not help.
	asking bool
	asked  time.Time
	vain   int
}

// any reports whether something is missing.
func (m *missing) any() bool { return m.whole || len(m.seqs) > 0 }

// all notes that everything is missing, as of the update upTo at least.
func (m *missing) all(upTo uint64, now time.Time) {
	if !m.any() {
		m.since = now
	}
	m.whole, m.upTo = true, max(m.upTo, upTo)
}

// lack notes that the updates from first to last have not arrived.
func (m *missing) lack(first, last uint64, now time.Time) {
	if last-first >= maxMissing || len(m.seqs) >= maxMissing {
		m.all(last, now)
		return
	}
	if !m.any() {
		m.since = now
	}
	if m.seqs == nil {
		m.seqs = map[uint64]struct{}{}
	}
	for seq := first; seq <= last; seq++ {
		m.seqs[seq] = struct{}{}
	}
}

// found notes that the update seq has arrived after all.
func (m *missing) found(seq uint64) { delete(m.seqs, seq) }

// completed notes that all is known as of the update seq.
func (m *missing) completed(seq uint64) {
	for missed := range m.seqs {
		if missed <= seq {
			delete(m.seqs, missed)
		}
	}
	if seq >= m.upTo {
		m.whole, m.upTo = false, 0
	}
	if !m.any() {
		m.vain = 0
	}
}

// due reports whether the region is to be asked now, and notes that it is.
func (m *missing) due(now time.Time) bool {
	pause := min(askSeldom, askEvery<<min(m.vain, 8))
	switch {
	case !m.any(), now.Sub(m.since) < lateUpdate, now.Sub(m.asked) < pause:
		return false
	case m.asking && now.Sub(m.asked) < lostAnswer:
		return false
	}
	m.asking, m.asked = true, now
	return true
}

// answered folds a region's whole view as it answered. It is no view update: that the region
// sends none stays as it is.
func (t *Table) answered(e ViewAnswered, now time.Time) []Effect {
	o, ok := t.others[e.Region]
	if !ok {
		return nil
	}
	o.asking = false
	if e.Update == nil || e.Update.Region != e.Region || e.Update.Seq > maxSequence {
		o.vain++
		return nil
	}
	effects := t.take(o, e.Update, now)
	if o.any() {
		o.vain++
	}
	return effects
}

// askDue asks a region in reach for what is missing of its view.
func (o *otherRegion) askDue(name string, now time.Time) []Effect {
	if o.full != nil && now.Sub(o.full.began) >= lostPart {
		o.all(o.full.seq, now)
	}
	if o.unreachable || !o.due(now) {
		return nil
	}
	return []Effect{ViewDue{name}}
}
