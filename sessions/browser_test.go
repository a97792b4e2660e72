package sessions_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/berthhq/berth/sessions"
)

// A scene is the time on a stage, and what has happened there.
type scene struct {
	now     time.Time     // the services' clock
	elapsed time.Duration // the test's stopwatch, which never goes back
	told    bool          // keep the trace
	trace   []string
}

// say adds a line to the trace, if it is kept: to write it costs more than the step.
func (s *scene) say(format string, args ...any) {
	if s.told {
		s.trace = append(s.trace, fmt.Sprintf("%7s  ", s.elapsed)+fmt.Sprintf(format, args...))
	}
}

// pass lets time pass.
func (s *scene) pass(by time.Duration) { s.now, s.elapsed = s.now.Add(by), s.elapsed+by }

// A browser is the client of a session: two tabs that share their storage, whoever steals from that,
// and the replies on their way to them.
type browser struct {
	scene
	newest   sessions.Stamp // in the tabs' storage
	out      bool           // the client was told to log in again
	tabs     [2]tab
	loot     []sessions.Stamp
	requests int
	replies  []reply
	// lastWins has the client store what came last, without V13.
	lastWins bool
}

type tab struct {
	waiting  int // the request it waits for
	until    time.Time
	critical bool
}

const thief = -1

type request struct {
	id, from int // from: a tab, or thief
	token    sessions.Stamp
	critical bool
	deadline time.Time
}

type reply struct {
	request request
	outcome sessions.Outcome
	err     error
}

// act takes a step of the client or of the thief. Their requests go to post.
func (b *browser) act(s step, post func(request)) {
	i := int(s.a) % len(b.tabs)
	switch s.do {
	case send:
		if r, ok := b.send(i); ok {
			post(r)
		}
	case receive, drop:
		if k, ok := pick(len(b.replies), s.a); ok {
			r := b.replies[k]
			b.replies = slices.Delete(b.replies, k, k+1)
			if s.do == receive {
				b.receive(r)
			} else {
				b.say("reply %d is lost", r.request.id)
			}
		}
	case giveUp:
		b.tabs[i].waiting = 0
	case claim:
		b.tabs[i].critical = !b.tabs[i].critical
	case steal:
		b.loot = append(b.loot, b.newest)
		b.say("the thief copies %s", b.newest)
	default: // present
		if k, ok := pick(len(b.loot), s.a); ok {
			b.requests++
			b.say("the thief sends request %d with %s", b.requests, b.loot[k])
			post(request{id: b.requests, from: thief, token: b.loot[k], deadline: b.now.Add(patience)})
		}
	}
}

// send lets a tab present what stands in the storage (V13: read again before each refresh,
// critical for both tabs), unless it waits for an answer.
func (b *browser) send(i int) (request, bool) {
	t := &b.tabs[i]
	if b.out || t.waiting != 0 && !b.now.After(t.until) {
		return request{}, false
	}
	b.requests++
	t.waiting, t.until = b.requests, b.now.Add(patience)
	r := request{id: b.requests, from: i, token: b.newest, critical: b.tabs[0].critical || b.tabs[1].critical, deadline: t.until}
	b.say("tab %d sends request %d with %s, critical %t", i, r.id, r.token, r.critical)
	return r, true
}

// receiveLast hands over the reply that came last.
func (b *browser) receiveLast() {
	last := len(b.replies) - 1
	r := b.replies[last]
	b.replies = b.replies[:last]
	b.receive(r)
}

// receive hands a reply to whoever still waits for it.
func (b *browser) receive(r reply) {
	v := r.outcome.Judgement.Verdict
	granted := r.err == nil && (v == sessions.Rotate || v == sessions.Replay || v == sessions.Supersede)
	now := r.outcome.Record.Current()
	if r.request.from == thief {
		if granted {
			b.loot = append(b.loot, now)
		}
		return
	}
	t := &b.tabs[r.request.from]
	if t.waiting != r.request.id || b.now.After(t.until) {
		b.say("reply %d comes too late", r.request.id)
		return
	}
	t.waiting = 0
	switch {
	case granted && (b.newest.Less(now) || b.lastWins): // V13: the greater one
		b.newest = now
		b.say("tab %d stores %s", r.request.from, b.newest)
	case r.err == nil && (v == sessions.Reused || v == sessions.Ended):
		b.out = true
		b.say("tab %d is logged out", r.request.from)
	}
}
