package sessions_test

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// leaseAccepted is how long what is given out is accepted: two minutes and a server's tolerance.
const leaseAccepted = 3 * time.Minute

// leaseStart is when the tests of leases begin.
var leaseStart = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// A leaseWorld is several regions with one session of a strict organization, clocks that differ, links
// that go one way and are cut one by one, and messages that arrive late. It goes on by seconds.
type leaseWorld struct {
	without leaseMutant
	names   []string
	session string // to whom it falls hangs on its name
	now     time.Time
	regions map[string]*leaseRegion
	// down holds the links that are cut, delay how long each takes, lag how much longer copies do.
	down       map[[2]string]bool
	delay, lag map[[2]string]time.Duration
	// last is when the last update on a link arrives, and lastCopy the last copy: none overtakes another.
	last, lastCopy map[[2]string]time.Time
	under          []*leaseMessage
	// writing are takeovers that were decided and are not written yet.
	writing []leaseWrite
	given   []leaseToken
	takes   int
	story   []string
	fault   string
}

// tell notes what happens, for when it ends badly.
func (w *leaseWorld) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf("%v: ", w.now.Sub(leaseStart))+fmt.Sprintf(format, args...))
}

type leaseRegion struct {
	name   string
	offset time.Duration
	lease  *sessions.Lease
	// registry is when the region's registry has heard each other.
	registry map[string]time.Time
	// deaf says that no view update reaches the lease, only the registry.
	deaf   bool
	record *sessions.Record
	copies map[string]sessions.Record
	// back is when each other region was heard again, told when what has arrived of its copies was sent.
	heard, back, told map[string]time.Time
}

type leaseMessage struct {
	from, to string
	sent, at time.Time
	head     events.ViewHead
	// copies says that it carries no view update, but what the sender has of the session.
	copies bool
	copied *sessions.Record
}

type leaseWrite struct {
	at     time.Time
	region string
	token  sessions.Stamp
}

type leaseToken struct {
	stamp  sessions.Stamp
	region string
	until  time.Time
}

// newLeaseWorld makes regions whose clocks are off by as much; the first one owns the session.
func newLeaseWorld(without leaseMutant, offsets ...time.Duration) *leaseWorld {
	w := &leaseWorld{
		without: without, session: "s", now: leaseStart, regions: map[string]*leaseRegion{}, down: map[[2]string]bool{},
		delay: map[[2]string]time.Duration{}, lag: map[[2]string]time.Duration{}, last: map[[2]string]time.Time{}, lastCopy: map[[2]string]time.Time{},
	}
	for i := range offsets {
		w.names = append(w.names, string(rune('a'+i)))
	}
	for i, name := range w.names {
		w.regions[name] = &leaseRegion{
			name: name, offset: offsets[i], registry: map[string]time.Time{}, copies: map[string]sessions.Record{},
			heard: map[string]time.Time{}, back: map[string]time.Time{}, told: map[string]time.Time{},
		}
		w.restart(name)
	}
	rec := sessions.Start(sessions.Record{Session: "s", Jurisdiction: "global"}, "a", sessions.Answer{}, "op", w.now)
	w.regions["a"].record = &rec
	w.given = []leaseToken{{rec.Current(), "a", w.now}}
	return w
}

// restart has a region forget what it has heard.
func (w *leaseWorld) restart(name string) {
	lease := sessions.NewLease(name, w.names, leaseAccepted)
	lease.Take(w.without.rules...)
	w.regions[name].lease = lease
	w.tell("%s restarts", name)
}

// forget has the registry of a region forget whom it has heard.
func (w *leaseWorld) forget(name string) {
	clear(w.regions[name].registry)
	w.tell("the registry of %s restarts", name)
}

// cut takes links away, or gives them back; an empty name is any region.
func (w *leaseWorld) cut(from, to string, down bool) {
	w.tell("from %q to %q, down: %v", from, to, down)
	for _, f := range w.names {
		for _, t := range w.names {
			if f != t && (from == "" || from == f) && (to == "" || to == t) {
				w.down[[2]string{f, t}] = down
			}
		}
	}
}

// isolate cuts a region off from all others, or joins it to them again.
func (w *leaseWorld) isolate(name string, down bool) {
	w.cut(name, "", down)
	w.cut("", name, down)
}

func (r *leaseRegion) clock(now time.Time) time.Time { return now.Add(r.offset) }

// complete reports whether no copy is known to be missing.
func (w *leaseWorld) complete(r *leaseRegion) bool {
	if w.without.anyCopies {
		return true
	}
	for _, name := range w.names {
		if name != r.name && w.now.Sub(r.heard[name]) < 3*time.Second && r.told[name].Before(r.back[name]) {
			return false
		}
	}
	return true
}

// second lets a second pass: messages arrive, registries speak, copies are sent.
func (w *leaseWorld) second() {
	w.now = w.now.Add(time.Second)
	slices.SortStableFunc(w.under, func(a, b *leaseMessage) int { return a.at.Compare(b.at) })
	for len(w.under) > 0 && !w.under[0].at.After(w.now) {
		m := w.under[0]
		w.under = w.under[1:]
		w.arrive(m)
	}
	for _, name := range w.names {
		w.speak(w.regions[name])
	}
	for i := 0; i < len(w.writing); i++ {
		if x := w.writing[i]; !x.at.After(w.now) {
			w.writing = slices.Delete(w.writing, i, i+1)
			w.write(x)
			i--
		}
	}
}

func (w *leaseWorld) arrive(m *leaseMessage) {
	r := w.regions[m.to]
	if m.copies {
		if m.copied != nil {
			r.copies[m.from] = *m.copied
			w.fold(r)
		}
		r.told[m.from] = m.sent
		return
	}
	r.registry[m.from] = w.now
	if r.deaf {
		return
	}
	if w.now.Sub(r.heard[m.from]) >= 3*time.Second {
		r.back[m.from] = w.now
	}
	r.heard[m.from] = w.now
	r.lease.Hear(m.head, r.clock(w.now))
}

func (w *leaseWorld) speak(r *leaseRegion) {
	head := events.ViewHead{Region: r.name, At: r.clock(w.now), Sees: map[string]int64{}}
	for name, at := range r.registry {
		head.Sees[name] = w.now.Sub(at).Milliseconds()
	}
	if !r.deaf {
		r.lease.Hear(head, r.clock(w.now))
	}
	r.lease.Answers(r.clock(w.now), w.complete(r))
	var copied *sessions.Record
	if r.record != nil {
		rec := *r.record
		copied = &rec
	}
	for _, to := range w.names {
		link := [2]string{r.name, to}
		if to == r.name || w.down[link] {
			continue
		}
		at := w.now.Add(w.delay[link])
		if at.Before(w.last[link]) {
			at = w.last[link]
		}
		w.last[link] = at
		w.under = append(w.under, &leaseMessage{from: r.name, to: to, sent: w.now, at: at, head: head})
		arrives := at.Add(w.delay[link]/2 + w.lag[link])
		if arrives.Before(w.lastCopy[link]) {
			arrives = w.lastCopy[link]
		}
		w.lastCopy[link] = arrives
		beat := &leaseMessage{from: r.name, to: to, sent: w.now, at: arrives, copies: true}
		beat.copied = copied
		w.under = append(w.under, beat)
	}
}

// fold settles what a region knows of the session.
func (w *leaseWorld) fold(r *leaseRegion) sessions.Folding {
	f := sessions.Fold(r.record, r.name, w.copies(r), func() string { return "fold" })
	r.record = f.Record
	if f.Yielded != nil {
		w.release(r.name)
	}
	return f
}

// release tells the server of a region that the session is elsewhere.
func (w *leaseWorld) release(region string) {
	for i := range w.given {
		if t := &w.given[i]; t.region == region && t.until.After(w.now) {
			t.until = w.now
		}
	}
}

// together reports whether two regions have heard each other for so long that each has learned, or knows
// that it has not, what the other one has.
func (w *leaseWorld) together(a, b *leaseRegion) bool {
	for _, r := range []*leaseRegion{a, b} {
		other := b.name
		if r == b {
			other = a.name
		}
		if w.now.Sub(r.heard[other]) >= 3*time.Second || w.now.Sub(r.back[other]) < sessions.LeaseSettle/2 {
			return false
		}
	}
	return true
}

// mayAnswer reports whether a region may answer for a session.
func (w *leaseWorld) mayAnswer(r *leaseRegion, rec *sessions.Record) bool {
	refusal := r.lease.MayAnswer(rec, r.clock(w.now), w.complete(r))
	return refusal == sessions.LeaseHeld
}

// refresh presents a token in a region, and says what came of it.
func (w *leaseWorld) refresh(region string, token sessions.Stamp, slow time.Duration) string {
	r := w.regions[region]
	f := w.fold(r)
	owner := f.Owner(token)
	now := r.clock(w.now)
	if owner == region {
		if r.record == nil || r.record.State != sessions.StateActive {
			return "not here"
		}
		if refusal := r.lease.MayAnswer(r.record, now, w.complete(r)); refusal != sessions.LeaseHeld {
			return string(refusal)
		}
		r.record.Gen++
		r.record.MintedAt = now
		w.give(r)
		return "answered"
	}
	if !w.down[[2]string{region, owner}] && !w.down[[2]string{owner, region}] {
		return w.refresh(owner, token, slow)
	}
	if fault, _ := r.lease.TakesOver(owner, w.session, now, w.complete(r)); fault != sessions.LeaseHeld {
		return string(fault)
	}
	if f.Top == nil {
		return "no record"
	}
	if fault := r.lease.MayGoOnWith(f.Top, token); fault != sessions.LeaseHeld {
		return string(fault)
	}
	w.writing = append(w.writing, leaseWrite{w.now.Add(slow), region, token})
	return "taken over"
}

// handOver has a region hand the session over to another, if it owns it and both may answer.
func (w *leaseWorld) handOver(from, to string) {
	a, b := w.regions[from], w.regions[to]
	w.fold(a)
	w.fold(b)
	if from == to || w.down[[2]string{from, to}] || w.down[[2]string{to, from}] || a.record == nil || a.record.State != sessions.StateActive ||
		!w.mayAnswer(a, a.record) ||
		b.record != nil && (b.record.State == sessions.StateActive || b.record.Epoch.Number > a.record.Epoch.Number) {
		return
	}
	next := *a.record
	next.Epoch, next.Gen = events.Epoch{Number: next.Epoch.Number + 1, Region: to}, next.Gen+1
	if !w.mayAnswer(b, &next) {
		return
	}
	moved := next
	moved.State = sessions.StateMoved
	a.record, b.record = &moved, &next
	w.tell("%s hands it over at %v", from, next.Epoch)
	w.release(from)
	w.give(b)
}

// copies returns what has arrived of the other regions' records.
func (w *leaseWorld) copies(r *leaseRegion) (list []sessions.Copy) {
	for _, name := range w.names {
		if rec, ok := r.copies[name]; ok {
			list = append(list, sessions.Copy{Region: name, Record: rec})
		}
	}
	return list
}

// write makes a takeover that was decided before.
func (w *leaseWorld) write(x leaseWrite) {
	r := w.regions[x.region]
	f := w.fold(r)
	if f.Owner(x.token) == x.region || f.Top == nil || r.lease.MayGoOnWith(f.Top, x.token) != sessions.LeaseHeld {
		return // somebody was faster
	}
	next := sessions.TakeOver(*f.Top, r.record, w.copies(r), sessions.Judgement{Token: x.token}, x.region, sessions.Answer{}, "op", r.clock(w.now))
	r.record = &next
	w.takes++
	w.tell("%s takes %v over by %v, from %v", r.name, next.Epoch, x.token, f.Top.Epoch)
	w.give(r)
}

// give notes an answer, and the fault if a server of another region accepts an earlier one still.
func (w *leaseWorld) give(r *leaseRegion) {
	for _, t := range w.given {
		if t.region == r.name || !t.until.After(w.now) {
			continue
		}
		// A region that does not answer any more and is about to learn why only has to tell its server.
		if y := w.regions[t.region]; !w.together(r, y) || y.record != nil && w.mayAnswer(y, y.record) {
			w.fault = cmp.Or(w.fault, fmt.Sprintf("%v: %s answers %v, and %s accepts %v until %v",
				w.now.Sub(leaseStart), r.name, r.record.Current(), t.region, t.stamp, t.until.Sub(leaseStart)))
		}
	}
	w.given = append(w.given, leaseToken{r.record.Current(), r.name, w.now.Add(leaseAccepted)})
}

// newest returns the token that was given out last.
func (w *leaseWorld) newest() sessions.Stamp { return w.given[len(w.given)-1].stamp }

// pass lets time pass, with a refresh in a region every second if one is named, and returns what
// came of each, once for as long as it is the same.
func (w *leaseWorld) pass(seconds int, region string) (became []string, at []time.Duration) {
	for range seconds {
		w.second()
		if region == "" {
			continue
		}
		if got := w.refresh(region, w.newest(), 0); len(became) == 0 || became[len(became)-1] != got {
			became, at = append(became, got), append(at, w.now.Sub(leaseStart))
		}
	}
	return became, at
}
