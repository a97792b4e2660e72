package sessions_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// A write is a record that the store has held, in order of its writes.
type write struct {
	prev *sessions.Record
	rec  sessions.Record
	// judged is when the record before was read, by the test's stopwatch and by the region's
	// clock; made when the new token was.
	judged, made time.Duration
	judgedAt     time.Time
}

// An answer is an outcome that left an owner.
type answer struct {
	honest   bool // asked by the client itself, not a thief
	token    sessions.Stamp
	critical bool
	floor    events.Epoch
	outcome  sessions.Outcome
	current  *sessions.Record // what the store held as it left
	dead     bool             // the session's server was found dead
	// judged is when the record was read, left when the answer left, by the stopwatch, which
	// never goes back.
	judged, left time.Duration
	// seen is how many writes there had been when the record was read.
	seen int
	// late says that the request began after a logout was acknowledged.
	late bool
	// now is the region's time as it left, contact when the store was last heard.
	now, contact time.Time
}

// A mint is a token: its parent, the server it binds to, and when it was made.
type mint struct {
	parent sessions.Stamp
	hash   string
	made   time.Duration
	// gap is how long the token before it had been current; lowered says that it came of
	// another line's token, so that grace went down (V9).
	gap     time.Duration
	lowered bool
}

// A settlement is the end of a parent's waiting: the write by which somebody presented its
// successor, the heir.
type settlement struct {
	heir  sessions.Stamp
	write int
}

// ledger remembers what happened, so that CheckInvariants can look at the whole of it.
type ledger struct {
	writes  []write
	answers []answer
	// stolen says that a thief has presented a token, back how far the clock has been set back
	// in all.
	stolen bool
	back   time.Duration
	// lost are acknowledged writes that the store has lost.
	lost []sessions.Record

	checkedWrites, checkedAnswers int
	line                          []sessions.Stamp // in order of minting
	minted                        map[sessions.Stamp]mint
	servers                       map[events.Epoch]string
	redeemed, again               map[sessions.Stamp]time.Duration // first and last
	settled                       map[sessions.Stamp]settlement
	voided                        map[sessions.Stamp]int // the write that did it
	claimed                       map[sessions.Stamp]bool
	handled                       map[sessions.Stamp]time.Duration
	granted                       map[sessions.Stamp][]answer
	revoked                       bool
}

func newLedger() *ledger {
	return &ledger{
		minted: map[sessions.Stamp]mint{}, servers: map[events.Epoch]string{}, redeemed: map[sessions.Stamp]time.Duration{},
		again:   map[sessions.Stamp]time.Duration{},
		settled: map[sessions.Stamp]settlement{}, voided: map[sessions.Stamp]int{}, claimed: map[sessions.Stamp]bool{},
		handled: map[sessions.Stamp]time.Duration{}, granted: map[sessions.Stamp][]answer{},
	}
}

// lose notes acknowledged writes that the store has lost. They void checks 2, 4 and 9 and guarantee
// 1; of the others only what rests on the very writes that are gone.
func (l *ledger) lose(recs []sessions.Record) {
	if l.lost = recs; len(recs) == 0 {
		return
	}
	gone := func(i int) bool {
		return slices.ContainsFunc(recs, func(r sessions.Record) bool { return r.Op == l.writes[i].rec.Op })
	}
	maps.DeleteFunc(l.settled, func(_ sessions.Stamp, s settlement) bool { return gone(s.write) })
	maps.DeleteFunc(l.voided, func(_ sessions.Stamp, by int) bool { return gone(by) })
	first := slices.IndexFunc(l.writes, func(w write) bool { return w.rec.Op == recs[0].Op })
	l.line = l.line[:1+slices.Index(l.line, l.writes[first].prev.Current())]
}

// tail reports whether the store has lost writes.
func (l *ledger) tail() bool { return len(l.lost) > 0 }

// lostEpoch reports whether the store has lost a write of an epoch.
func (l *ledger) lostEpoch(e events.Epoch) bool {
	return slices.ContainsFunc(l.lost, func(r sessions.Record) bool { return r.Epoch == e })
}

// lostToken reports whether the store has lost that it ever made a token.
func (l *ledger) lostToken(t sessions.Stamp) bool {
	return slices.ContainsFunc(l.lost, func(r sessions.Record) bool { return r.Current() == t })
}

// lostRevoke reports whether the store has lost every write by which the session was revoked.
func (l *ledger) lostRevoke() bool {
	return l.revoked && !slices.ContainsFunc(l.writes, func(w write) bool {
		return w.rec.State == sessions.StateRevoked && !slices.ContainsFunc(l.lost, func(gone sessions.Record) bool { return gone.Op == w.rec.Op })
	})
}

// patience is how long a client waits for an answer: the deadline of its requests.
const patience = 10 * time.Second

// straddle is how long after an answer has left another request may act on what the client
// knew before: the answer is on its way for at most its patience, and so is the other request.
const straddle = 2 * patience

// CheckInvariants returns the first invariant that what happened since the last call breaks.
// The numbers are the specification's; of its sixteen, those that one region can break are
// checked: 1 to 5, 8, 9 and 12 here, 14 and 15 in world.quiet, 13 in neither, for a record is
// active or revoked and nothing else.
func CheckInvariants(l *ledger) error {
	for ; l.checkedWrites < len(l.writes); l.checkedWrites++ {
		if err := l.checkWrite(&l.writes[l.checkedWrites]); err != nil {
			return err
		}
	}
	for ; l.checkedAnswers < len(l.answers); l.checkedAnswers++ {
		if err := l.checkAnswer(&l.answers[l.checkedAnswers]); err != nil {
			return err
		}
	}
	return nil
}

func broken(invariant, format string, args ...any) error {
	return fmt.Errorf("%s: %s", invariant, fmt.Sprintf(format, args...))
}

func (l *ledger) checkWrite(w *write) error {
	now := w.rec.Current()
	if w.prev != nil {
		switch {
		case w.rec.Epoch.Compare(w.prev.Epoch) < 0, now.Less(w.prev.Current()):
			return broken("1", "the record fell from %s to %s", w.prev.Current(), now)
		case w.prev.State == sessions.StateRevoked && w.rec.State != sessions.StateRevoked:
			return broken("1", "the session was revoked and is %s", w.rec.State)
		}
	}
	l.revoked = l.revoked || w.rec.State == sessions.StateRevoked
	if !w.rec.CriticalSince.IsZero() {
		l.claimed[now] = true
	}
	if w.prev != nil && now == w.prev.Current() {
		return nil
	}
	return l.checkMint(w, now)
}

// checkMint looks at a write that made a new token.
func (l *ledger) checkMint(w *write, now sessions.Stamp) error {
	parent := w.rec.Parent
	if !parent.Less(now) {
		return broken("3", "the parent %s of %s is not below it", parent, now)
	}
	m := mint{parent: parent, hash: w.rec.Hash, made: w.made}
	if w.prev != nil {
		m.gap = w.judged - l.minted[w.prev.Current()].made
		m.lowered = parent != w.prev.Current() && parent != w.prev.Parent
	}
	if w.prev != nil && w.prev.Server != w.rec.Server && !w.rec.CriticalSince.IsZero() && w.rec.Answer.Reason != downReason {
		return broken("12", "a critical session moved: %s", w.rec.Answer.Reason)
	}
	if other, ok := l.minted[now]; ok && other.parent != parent && !l.tail() {
		return broken("2", "%s was minted from %s and from %s", now, other.parent, parent)
	}
	if server, ok := l.servers[now.Epoch]; ok && server != w.rec.Server && !l.tail() {
		return broken("2", "epoch %v is at %s and at %s", now.Epoch, server, w.rec.Server)
	}
	if w.prev != nil && parent == w.prev.Current() {
		l.settled[w.prev.Parent] = settlement{parent, l.checkedWrites}
	}
	if _, ok := l.redeemed[parent]; !ok {
		l.redeemed[parent] = w.made
	}
	l.again[parent] = w.made
	if w.prev != nil && parent != w.prev.Current() && !w.prev.Fresh(w.judgedAt) {
		l.voided[w.prev.Current()] = l.checkedWrites
	}
	l.minted[now], l.servers[now.Epoch] = m, w.rec.Server
	l.line = append(l.line, now)
	return nil
}

func (l *ledger) checkAnswer(a *answer) error {
	switch a.outcome.Judgement.Verdict {
	case sessions.Rotate, sessions.Replay, sessions.Supersede:
		err := l.checkGrant(a)
		l.handled[a.token], l.handled[a.outcome.Record.Current()] = a.left, a.left
		l.granted[a.token] = append(l.granted[a.token], *a)
		return err
	case sessions.Superseded:
		return l.checkWait(a)
	case sessions.Reused:
		return l.checkReuse(a)
	case sessions.Ended:
		if !l.revoked {
			return broken("9", "%s was refused as revoked, and nobody has revoked", a.token)
		}
	case sessions.Unrotated:
		return l.checkUnrotated(a)
	case sessions.Behind, sessions.Elsewhere:
		return broken("9", "%s is of another region, and there is none", a.token)
	}
	return nil
}

// checkGrant looks at an answer with tokens.
func (l *ledger) checkGrant(a *answer) error {
	rec := &a.outcome.Record
	now := rec.Current()
	if rec.Epoch.Compare(a.floor) < 0 {
		return broken("8", "%s was issued, the floor is %v", now, a.floor)
	}
	if a.critical && (rec.CriticalSince.IsZero() || !l.claimed[now]) {
		return broken("12", "a critical task was acknowledged with %s and not recorded", now)
	}
	if a.outcome.Judgement.Verdict == sessions.Replay && a.dead {
		return broken("promise 3", "%s was told again of %s, which is dead", a.token, rec.Server)
	}
	m, ok := l.minted[now]
	switch {
	case (a.current == nil || a.current.Epoch.Compare(rec.Epoch) < 0) && !l.lostEpoch(rec.Epoch):
		return broken("5", "%s was told, the record is %+v", now, a.current)
	case a.late && !l.lostRevoke():
		return broken("promise 8", "%s got %s after an acknowledged logout", a.token, now)
	case (!ok || m.hash != rec.Hash) && !l.tail():
		return broken("2", "%s was told and never written", now)
	}
	if by, ok := l.voided[a.token]; ok && by < a.seen {
		return broken("3", "%s was voided and is honoured", a.token)
	}
	if s, ok := l.settled[a.token]; ok && s.write < a.seen {
		return broken("3", "%s is honoured after its successor %s was", a.token, s.heir)
	}
	if s, ok := l.settled[l.minted[a.token].parent]; ok && s.write < a.seen && s.heir != a.token && !l.lostToken(a.token) {
		return broken("3", "%s is honoured after its sibling %s was", a.token, s.heir)
	}
	for _, b := range l.granted[a.token] {
		first, second := &b, a
		if a.judged < b.judged {
			first, second = a, &b
		}
		one, two := first.outcome.Record, second.outcome.Record
		same := one.Current() == two.Current() && one.Hash == two.Hash
		if second.judged-l.minted[one.Current()].made < sessions.Window && !same && one.Epoch == two.Epoch && !l.tail() {
			return broken("4", "%s was answered with %s and with %s", a.token, one.Current(), two.Current())
		}
	}
	return nil
}

// checkUnrotated looks at an answer with access alone.
func (l *ledger) checkUnrotated(a *answer) error {
	rec := &a.outcome.Record
	switch now := rec.Current(); {
	case rec.State != sessions.StateActive:
		return broken("V11", "%s got access by a record that is %s", a.token, rec.State)
	case rec.Epoch.Compare(a.floor) < 0:
		return broken("8", "%s got access at %s, the floor is %v", a.token, now, a.floor)
	case a.contact.IsZero() || a.now.Sub(a.contact) > sessions.Leaderless:
		return broken("10", "%s got access at %s, the store was last heard at %s", a.token, a.now, a.contact)
	case (a.current == nil || a.current.Epoch.Compare(rec.Epoch) < 0) && !l.lostEpoch(rec.Epoch):
		return broken("5", "%s was told of %s, the record is %+v", a.token, now, a.current)
	}
	return nil
}

// checkWait looks at a 409: only the slow get it, not those whose token was last redeemed
// before a pause of a window or more (promise 3).
func (l *ledger) checkWait(a *answer) error {
	at, ok := l.again[a.token]
	if !ok {
		return nil
	}
	tolerated := sessions.Window + l.back
	for i := len(l.line) - 1; i > 0 && l.minted[l.line[i-1]].made >= at; i-- {
		m := l.minted[l.line[i]]
		if m.lowered {
			return nil
		}
		if m.gap >= tolerated {
			return broken("promise 3", "%s was asked to wait, the line has rested %s since it was redeemed", a.token, m.gap)
		}
	}
	return nil
}

// checkReuse looks at a revocation: the token, or for one that was voided its parent, was
// redeemed at least a window before; and it was not the client's own doing.
func (l *ledger) checkReuse(a *answer) error {
	if l.tail() {
		return nil
	}
	at, ok := l.redeemed[a.token]
	if !ok {
		at, ok = l.redeemed[l.minted[a.token].parent]
	}
	if !ok || a.judged-at < sessions.Window {
		return broken("9", "%s revoked the session, it was redeemed %s before", a.token, a.judged-at)
	}
	if a.honest && !l.stolen {
		return l.honest(a)
	}
	return nil
}

// honest refuses to revoke an honest client (promise 6).
//
// One edge is left out, for the protocol does not cover it: a token answered just inside the
// window and redeemed again, or followed by its successor's redemption, just outside. The
// answer of the one request may reach the client after the other request has voided it; and
// a request with the old token may still be on its way when the successor, already more than
// a window old, is redeemed. Both take two overlapping requests around the window's end.
func (l *ledger) honest(a *answer) error {
	last, ok := l.handled[a.token]
	at := a.judged
	if by, voided := l.voided[a.token]; voided {
		at = l.writes[by].judged
	}
	if ok && at-last < straddle {
		return nil
	}
	return broken("promise 6", "an honest client's %s revoked the session", a.token)
}
