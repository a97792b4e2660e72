package sessions_test

import (
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// A fleetWrite is a record that a region's store has held.
type fleetWrite struct {
	region string
	prev   *sessions.Record
	rec    sessions.Record
	// background says that no client waited for it; theirs is what the destination of the handover
	// that it ends had then.
	background bool
	theirs     *sessions.Record
}

// A fleetAnswer is an outcome that left a region.
type fleetAnswer struct {
	honest  bool
	request request
	floor   events.Epoch
	outcome sessions.Outcome
	// judged is when a record was last read for it, left when it left.
	judged, left time.Duration
	// late says that the request began after the region that was asked knew of a revocation.
	late bool
	// held is what the region of its epoch held as it left, at that region's time now; contact is
	// when its store was last heard.
	held         *sessions.Record
	now, contact time.Time
}

// fleetMint is a token as it was first written.
type fleetMint struct {
	parent sessions.Stamp
	hash   string
	at     time.Duration
}

// A takeover is a session that a region went on with by itself.
type takeover struct {
	at, of string
	// known is the region that owned it as far as could be known there.
	known string
	// witnessed says that a region which it reaches hears the owner; blind that it had no copy of the
	// session, age how old the token was.
	witnessed, blind bool
	age              time.Duration
}

// fleetLedger remembers what happened in a fleet.
type fleetLedger struct {
	writes    []fleetWrite
	answers   []fleetAnswer
	yields    []sessions.Yield
	takeovers []takeover
	// stolen says that a thief has presented a token, cut that two regions were ever cut off from
	// one another, ended that a logout was acknowledged.
	stolen, cut, ended bool
	// lost are acknowledged writes that a store has lost.
	lost []fleetWrite
	// unfolded is the last judgement that left out a copy.
	unfolded error

	checkedWrites, checkedAnswers, checkedYields, checkedTakeovers int
	mints                                                          map[sessions.Stamp]fleetMint
	servers                                                        map[events.Epoch]string
	committed, undone                                              map[string]bool // by op
	moved                                                          map[events.Epoch]bool
	offered                                                        map[string]bool // by op
	redeemed                                                       map[sessions.Stamp]time.Duration
	handled                                                        map[sessions.Stamp]time.Duration
	voided                                                         map[sessions.Stamp]time.Duration
	granted                                                        map[sessions.Stamp][]fleetAnswer
	toldOf                                                         map[string]bool
	revoked                                                        bool
}

func newFleetLedger() *fleetLedger {
	return &fleetLedger{
		mints: map[sessions.Stamp]fleetMint{}, servers: map[events.Epoch]string{}, committed: map[string]bool{}, undone: map[string]bool{},
		moved: map[events.Epoch]bool{}, offered: map[string]bool{}, redeemed: map[sessions.Stamp]time.Duration{}, handled: map[sessions.Stamp]time.Duration{},
		voided: map[sessions.Stamp]time.Duration{}, granted: map[sessions.Stamp][]fleetAnswer{}, toldOf: map[string]bool{},
	}
}

// lose notes acknowledged writes that a region's store has lost. They void checks 2, 4 and 9 and
// promise 1; of the others only what rests on the very writes that are gone.
func (l *fleetLedger) lose(region string, recs []sessions.Record) {
	for _, rec := range recs {
		l.lost = append(l.lost, fleetWrite{region: region, rec: rec})
	}
}

// tail reports whether a store has lost writes.
func (l *fleetLedger) tail() bool { return len(l.lost) > 0 }

// lostCommit reports whether the owner has lost its commit of a handover.
func (l *fleetLedger) lostCommit(op string) bool {
	return slices.ContainsFunc(l.lost, func(w fleetWrite) bool { return w.rec.State == sessions.StateMoved && w.rec.Op == op })
}

// lostOffer reports whether the owner has lost that it ever offered the session.
func (l *fleetLedger) lostOffer(op string) bool {
	return slices.ContainsFunc(l.lost, func(w fleetWrite) bool { return w.rec.State == sessions.StateMoving && w.rec.Op == op })
}

// lostEpoch reports whether the region of an epoch has lost that it owned it, or was to.
func (l *fleetLedger) lostEpoch(e events.Epoch) bool {
	return slices.ContainsFunc(l.lost, func(w fleetWrite) bool { return w.region == e.Region && w.rec.Epoch == e })
}

// lostRevoke reports whether every region that wrote that the session was revoked has lost that.
func (l *fleetLedger) lostRevoke() bool {
	return l.revoked && !slices.ContainsFunc(l.writes, func(w fleetWrite) bool {
		return w.rec.State == sessions.StateRevoked && !slices.ContainsFunc(l.lost, func(gone fleetWrite) bool {
			return gone.region == w.region && gone.rec.Op == w.rec.Op
		})
	})
}

// made returns when a token was.
func (l *fleetLedger) made(t sessions.Stamp) time.Time {
	if m, ok := l.mints[t]; ok {
		return noon.Add(m.at)
	}
	return noon
}

// check returns the first invariant that what happened since the last call breaks.
func (l *fleetLedger) check() error {
	for ; l.checkedWrites < len(l.writes); l.checkedWrites++ {
		if err := l.checkWrite(&l.writes[l.checkedWrites]); err != nil {
			return err
		}
	}
	for ; l.checkedTakeovers < len(l.takeovers); l.checkedTakeovers++ {
		switch t := &l.takeovers[l.checkedTakeovers]; {
		case t.known != t.of:
			return broken("takeover", "%s took a session from %s, and knew it to be of %s", t.at, t.of, t.known)
		case t.witnessed:
			return broken("V15", "%s took a session from %s, which a region in reach hears", t.at, t.of)
		case t.blind && t.age >= youngFor:
			return broken("V16", "%s took a session from %s without a copy, by a token that is %s old", t.at, t.of, t.age)
		}
	}
	if l.unfolded != nil {
		return l.unfolded
	}
	for ; l.checkedYields < len(l.yields); l.checkedYields++ {
		if y := &l.yields[l.checkedYields]; y.Conflict && !l.cut {
			return broken("16", "%s forked from %s, and no region was ever cut off", y.Before.Current(), y.After.Current())
		}
	}
	for ; l.checkedAnswers < len(l.answers); l.checkedAnswers++ {
		if err := l.checkAnswer(&l.answers[l.checkedAnswers]); err != nil {
			return err
		}
	}
	return nil
}

func (l *fleetLedger) checkWrite(w *fleetWrite) error {
	rec := &w.rec
	if prev := w.prev; prev != nil {
		switch {
		case rec.Epoch.Compare(prev.Epoch) < 0:
			return broken("1", "in %s the record fell from %s to %s", w.region, prev.Current(), rec.Current())
		case prev.State == sessions.StateRevoked && rec.State != sessions.StateRevoked:
			return broken("1", "in %s the session was revoked and is %s", w.region, rec.State)
		}
	}
	if w.prev != nil && w.prev.State == sessions.StateMoving {
		if err := l.checkSettled(w); err != nil {
			return err
		}
	}
	switch rec.State {
	case sessions.StateActive:
		if l.offered[rec.Op] && !l.moved[rec.Epoch] && (w.prev == nil || w.prev.State != sessions.StateMoving) {
			return broken("7", "in %s %s is active, and nobody has committed it", w.region, rec.Current())
		}
	case sessions.StateMoving:
		l.offered[rec.Op] = true
	case sessions.StateMoved:
		l.moved[rec.Epoch] = true
	case sessions.StatePrepared, sessions.StateRevoked:
	}
	l.revoked = l.revoked || rec.State == sessions.StateRevoked
	return l.checkToken(w)
}

// checkSettled looks at the end of a handover at its owner: commit and undo exclude each other, and
// nobody undoes in the background what the destination has. An owner that has lost its commit, and
// cannot ask, lets a client undo it.
func (l *fleetLedger) checkSettled(w *fleetWrite) error {
	op := w.prev.Op
	undone := w.rec.State == sessions.StateActive && w.rec.Parent == w.prev.Intent.Next.Parent
	if undone && w.background && w.theirs != nil && w.theirs.Op == op {
		return broken("6", "the handover %s was undone in the background, and its destination is %s", op, w.theirs.State)
	}
	if l.lostCommit(op) {
		return nil
	}
	switch w.rec.State {
	case sessions.StateMoved:
		if w.rec.Op != op {
			return nil // it has learned of a later owner
		}
		l.committed[op] = true
	case sessions.StateActive:
		if !undone {
			return nil // taken back from the next owner, later
		}
		l.undone[op] = true
		if l.toldOf[op] {
			return broken("6", "the handover %s was undone after a client was told of it", op)
		}
	case sessions.StateMoving, sessions.StatePrepared, sessions.StateRevoked:
	}
	if l.committed[op] && l.undone[op] {
		return broken("6", "the handover %s was committed and undone", op)
	}
	return nil
}

// checkToken looks at the token that a record holds: each is made once, of one parent.
func (l *fleetLedger) checkToken(w *fleetWrite) error {
	now, parent := w.rec.Current(), w.rec.Parent
	if i := w.rec.Intent; i != nil && !i.Next.Dead.IsZero() { // what the intent voids was settled now
		if _, already := l.voided[i.Next.Dead]; !already {
			l.voided[i.Next.Dead] = i.Next.MintedAt.Sub(noon)
		}
	}
	if w.rec.State == sessions.StateRevoked {
		return nil
	}
	if server, ok := l.servers[now.Epoch]; ok && server != w.rec.Server && !l.tail() {
		return broken("2", "epoch %v is at %s and at %s", now.Epoch, server, w.rec.Server)
	}
	l.servers[now.Epoch] = w.rec.Server
	m, ok := l.mints[now]
	if ok && (m.parent != parent || m.hash != w.rec.Hash) && !l.tail() {
		return broken("2", "%s was minted from %s and from %s", now, m.parent, parent)
	}
	if ok && m.hash == w.rec.Hash {
		return nil
	}
	if !parent.Less(now) {
		return broken("3", "the parent %s of %s is not below it", parent, now)
	}
	if prev := w.prev; prev != nil && prev.Server != w.rec.Server && w.rec.State != sessions.StatePrepared && !w.rec.CriticalSince.IsZero() &&
		w.rec.Answer.Reason != downReason && w.rec.Answer.Reason != regionDown {
		return broken("12", "a critical session moved: %s", w.rec.Answer.Reason)
	}
	made := w.rec.MintedAt.Sub(noon) // the write may come later
	l.mints[now] = fleetMint{parent: parent, hash: w.rec.Hash, at: made}
	if _, ok := l.redeemed[parent]; !ok {
		l.redeemed[parent] = made
	}
	if _, already := l.voided[w.rec.Dead]; !already && !w.rec.Dead.IsZero() {
		l.voided[w.rec.Dead] = made
	}
	return nil
}

func (l *fleetLedger) checkAnswer(a *fleetAnswer) error {
	rec := &a.outcome.Record
	switch a.outcome.Judgement.Verdict {
	case sessions.Rotate, sessions.Replay, sessions.Supersede:
		err := l.checkGrant(a)
		l.handled[a.request.token], l.handled[rec.Current()] = a.left, a.left
		l.granted[a.request.token] = append(l.granted[a.request.token], *a)
		l.toldOf[rec.Op] = true
		return err
	case sessions.Reused:
		return l.checkReuse(a)
	case sessions.Ended:
		if !l.revoked {
			return broken("9", "%s was refused as revoked, and nobody has revoked", a.request.token)
		}
	case sessions.Behind:
		return broken("9", "%s was judged by a region that is behind", a.request.token)
	case sessions.Unrotated:
		return l.checkUnrotated(a)
	case sessions.Superseded, sessions.Elsewhere:
	}
	return nil
}

// checkUnrotated looks at an answer with access alone.
func (l *fleetLedger) checkUnrotated(a *fleetAnswer) error {
	rec := &a.outcome.Record
	t, now := a.request.token, rec.Current()
	switch {
	case rec.State != sessions.StateActive && rec.State != sessions.StateMoving:
		return broken("V11", "%s got access by a record that is %s", t, rec.State)
	case rec.Epoch.Compare(a.floor) < 0:
		return broken("8", "%s got access at %s, the floor is %v", t, now, a.floor)
	case a.contact.IsZero() || a.now.Sub(a.contact) > sessions.Leaderless:
		return broken("10", "%s got access at %s, the store was last heard at %s", t, a.now, a.contact)
	case (a.held == nil || a.held.Epoch.Compare(rec.Epoch) < 0) && !l.lostEpoch(rec.Epoch):
		return broken("5", "%s was told of %s, its region holds %+v", t, now, a.held)
	case a.late && !l.lostRevoke():
		return broken("promise 8", "%s got access where the session was known to be revoked", t)
	}
	return nil
}

// checkGrant looks at an answer with tokens.
func (l *fleetLedger) checkGrant(a *fleetAnswer) error {
	rec := &a.outcome.Record
	now := rec.Current()
	switch {
	case rec.State == sessions.StatePrepared:
		return broken("7", "%s was told from a prepared record", now)
	case rec.Epoch.Compare(a.floor) < 0:
		return broken("8", "%s was issued, the floor is %v", now, a.floor)
	case a.request.critical && rec.CriticalSince.IsZero():
		return broken("12", "a critical task was acknowledged with %s and not recorded", now)
	case (a.held == nil || a.held.Epoch.Compare(rec.Epoch) < 0) && !l.lostEpoch(rec.Epoch):
		return broken("5", "%s was told, its region holds %+v", now, a.held)
	case a.late && !l.lostRevoke():
		return broken("promise 8", "%s got %s where the session was known to be revoked", a.request.token, now)
	case l.tail():
		return nil
	}
	if m, ok := l.mints[now]; !ok || m.hash != rec.Hash {
		return broken("2", "%s was told and never written", now)
	}
	for _, b := range l.granted[a.request.token] {
		one := b.outcome.Record
		same := one.Current() == now && one.Hash == rec.Hash
		if a.judged-l.mints[one.Current()].at < sessions.Window && !same && one.Epoch == rec.Epoch && b.judged <= a.judged {
			return broken("4", "%s was answered with %s and with %s", a.request.token, one.Current(), now)
		}
	}
	return nil
}

// checkReuse looks at a revocation: the token, or its parent, was redeemed at least a window
// before, and it was not an honest client's own doing.
func (l *fleetLedger) checkReuse(a *fleetAnswer) error {
	if l.tail() {
		return nil
	}
	t := a.request.token
	at, ok := l.redeemed[t]
	if before, had := l.redeemed[l.mints[t].parent]; had && (!ok || before < at) { // it was voided
		at, ok = before, true
	}
	if !ok || a.judged-at < sessions.Window {
		return broken("9", "%s revoked the session, it was redeemed %s before", t, a.judged-at)
	}
	if !a.honest || l.stolen {
		return nil
	}
	judged := a.judged
	if by, voided := l.voided[t]; voided {
		judged = by
	}
	if last, ok := l.handled[t]; ok && judged-last < straddle { // as in ledger.honest
		return nil
	}
	return broken("promise 6", "an honest client's %s revoked the session", t)
}
