package tokens

import (
	"container/heap"
	"time"

	"github.com/berthhq/berth/sessions"
)

// agenda says which sessions the sweeper looks at, and when: each at one time only, soon where
// there is news of it, and ever more rarely where nothing changes. It is pure: callers tell the
// time.
type agenda struct {
	// most bounds how many are remembered, half of it those added with patience; left says that there was
	// no room for some.
	most int
	left bool
	all  map[sessions.Key]*appointment
	// soon and patient are those that are not being looked at, the first due on top.
	soon, patient dates
	// rest is when the next of the patient may be looked at.
	rest time.Time
}

// appointment is a session to look at, when, and how long to wait after that.
type appointment struct {
	key  sessions.Key
	due  time.Time
	wait time.Duration
	// patient says that nobody waits for it.
	patient bool
	// at is its place in its heap, busy while it is being looked at; again says that there was
	// news meanwhile.
	at    int
	again bool
}

// busy stands for the place of those that are in no heap.
const busy = -1

// patientEvery is the pause between two looks that nobody waits for: at those that have stayed
// unsettled for long, and at those of which a start does not know whether they are. However many
// they are, a region that is gone for good, or a start among a million sessions, costs no more
// than that.
const patientEvery = 5 * time.Millisecond

func newAgenda(most int) *agenda {
	return &agenda{most: most, all: map[sessions.Key]*appointment{}}
}

// add takes a session of which there is news: it is due after sweepFirst, also if it was put off
// for longer, and once more if it is being looked at. Where all room is taken one with patience
// goes. False: there is none.
func (a *agenda) add(key sessions.Key, now time.Time) bool {
	p := a.all[key]
	switch {
	case p == nil && len(a.all) >= a.most && !a.evict():
		return false
	case p == nil:
		p = &appointment{key: key, due: now.Add(sweepFirst)}
		a.all[key] = p
	case p.at == busy:
		p.again = true
		return true
	default:
		heap.Remove(a.heap(p), p.at)
	}
	if due := now.Add(sweepFirst); due.Before(p.due) {
		p.due = due
	}
	p.patient, p.wait = false, sweepFirst
	heap.Push(a.heap(p), p)
	return true
}

// addPatient takes a session that may be settled already, and nobody waits for. One that is on
// the agenda stays as it is. False: there is no room for it.
func (a *agenda) addPatient(key sessions.Key, now time.Time) bool {
	if a.all[key] != nil {
		return true
	}
	if len(a.all) >= a.most || len(a.patient) >= a.most/2 {
		a.left = true
		return false
	}
	p := &appointment{key: key, due: now.Add(sweepFirst), wait: sweepFirst, patient: true}
	a.all[key] = p
	heap.Push(a.heap(p), p)
	return true
}

// evict forgets one of the last of those with patience. False: there is none.
func (a *agenda) evict() bool {
	a.left = true
	last := len(a.patient) - 1
	if last < 0 {
		return false
	}
	delete(a.all, a.patient[last].key)
	heap.Remove(&a.patient, last)
	return true
}

// heap returns the one that an appointment belongs to.
func (a *agenda) heap(p *appointment) *dates {
	if p.patient {
		return &a.patient
	}
	return &a.soon
}

// pop takes the session that is to be looked at next, until done is told. False: none is now;
// then next is how long until one may be, at most sweepLast.
func (a *agenda) pop(now time.Time) (key sessions.Key, next time.Duration, ok bool) {
	next = sweepLast
	if len(a.soon) > 0 {
		if next = min(next, a.soon[0].due.Sub(now)); next <= 0 {
			return a.take(&a.soon), 0, true
		}
	}
	if len(a.patient) > 0 {
		wait := max(a.patient[0].due.Sub(now), a.rest.Sub(now))
		if wait <= 0 {
			a.rest = now.Add(patientEvery)
			return a.take(&a.patient), 0, true
		}
		next = min(next, wait)
	}
	return key, next, false
}

func (a *agenda) take(d *dates) sessions.Key {
	p := (*d)[0]
	heap.Pop(d)
	return p.key
}

// done ends a look. A session that is settled is forgotten, unless there was news of it meanwhile.
func (a *agenda) done(key sessions.Key, settled bool, now time.Time) {
	p := a.all[key]
	switch {
	case p == nil || p.at != busy:
		return
	case p.again:
		p.again, p.patient = false, false
		p.due, p.wait = now.Add(sweepFirst), sweepFirst
	case settled:
		delete(a.all, key)
		return
	default:
		p.patient = p.patient || p.wait >= sweepLast
		p.due, p.wait = now.Add(p.wait), min(2*p.wait, sweepLast)
	}
	heap.Push(a.heap(p), p)
}

// dates is a heap of appointments.
type dates []*appointment

var _ heap.Interface = (*dates)(nil)

func (d dates) Len() int           { return len(d) }
func (d dates) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d dates) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].at, d[j].at = i, j
}

// Push implements heap.Interface.
func (d *dates) Push(x any) {
	if p, ok := x.(*appointment); ok {
		p.at = len(*d)
		*d = append(*d, p)
	}
}

// Pop implements heap.Interface.
func (d *dates) Pop() any {
	last := len(*d) - 1
	p := (*d)[last]
	(*d)[last], *d = nil, (*d)[:last]
	p.at = busy
	return p
}
