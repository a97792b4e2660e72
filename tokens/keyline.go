package tokens

import (
	"cmp"
	"time"

	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// KeyState is where a key is in its life.
type KeyState string

// The states of a key, in the order in which it has them. They are not stored: they follow from
// what happened to the keys of the region, and from the time.
const (
	// KeyPublished is known, and signs nothing yet.
	KeyPublished KeyState = "published"
	// KeySigning signs all new tokens.
	KeySigning KeyState = "signing"
	// KeyRetired was followed by another: it repeats what it signed for a while, and verifies
	// until the last token that it signed has expired.
	KeyRetired KeyState = "retired"
	// KeyGone is retired, and past that.
	KeyGone KeyState = "gone"
	// KeyRevoked was retired by force: nothing that it signed is good any more.
	KeyRevoked KeyState = "revoked"
)

// Times of a key's life.
const (
	// replaySlack is how long beyond the window of replays a retired key can sign: clocks and
	// requests under way may be late by that.
	replaySlack = 10 * time.Second
	// verifyLife is how long a key verifies after it signed its last token: the longest life of a
	// refresh token that any service may be configured with, and some for clocks.
	verifyLife = MaxRefreshTTL + sessions.Keep
)

// keyLine is what happened to the keys of one region, by their ids. A region has one signing key
// at a time: the one that was last given the word. A key that was followed never signs again, not
// even when its successor is revoked, for its end was told already.
type keyLine map[string]api.KeyLife

// before orders keys by when they sign; equal times by their ids.
func (l keyLine) before(a, b string) bool {
	if c := l[a].Signs.Compare(l[b].Signs); c != 0 {
		return c < 0
	}
	return a < b
}

// newest returns the key that was given the word last, as of now; "" if none ever was.
func (l keyLine) newest(now time.Time) string {
	newest := ""
	for kid, life := range l {
		if !life.Signs.IsZero() && !life.Signs.After(now) && (newest == "" || l.before(newest, kid)) {
			newest = kid
		}
	}
	return newest
}

// signing returns the key that signs new tokens, "" if there is none.
func (l keyLine) signing(now time.Time) string {
	newest := l.newest(now)
	if newest == "" || !l[newest].Revoked.IsZero() {
		return ""
	}
	return newest
}

// begun reports whether any key was ever given the word.
func (l keyLine) begun() bool {
	for _, life := range l {
		if !life.Signs.IsZero() {
			return true
		}
	}
	return false
}

// signsUntil returns when the next key took the word, or will; the zero time if none has it.
func (l keyLine) signsUntil(kid string) time.Time {
	var until time.Time
	for other, life := range l {
		if !l[kid].Signs.IsZero() && !life.Signs.IsZero() && l.before(kid, other) && (until.IsZero() || life.Signs.Before(until)) {
			until = life.Signs
		}
	}
	return until
}

// verifiesUntil returns when the last token that the key signed has expired, or when it was
// revoked; the zero time while that is open.
func (l keyLine) verifiesUntil(kid string) time.Time {
	if revoked := l[kid].Revoked; !revoked.IsZero() {
		return revoked
	}
	if until := l.signsUntil(kid); !until.IsZero() {
		return until.Add(verifyLife)
	}
	return time.Time{}
}

// state returns where a key is in its life.
func (l keyLine) state(kid string, now time.Time) KeyState {
	until := l.signsUntil(kid)
	switch life := l[kid]; {
	case !life.Revoked.IsZero():
		return KeyRevoked
	case life.Signs.IsZero() || life.Signs.After(now):
		return KeyPublished
	case until.IsZero() || until.After(now):
		return KeySigning
	case now.Before(until.Add(verifyLife)):
		return KeyRetired
	default:
		return KeyGone
	}
}

// since returns when a key came to its state.
func (l keyLine) since(kid string, now time.Time) time.Time {
	switch l.state(kid, now) {
	case KeySigning:
		return l[kid].Signs
	case KeyRetired:
		return l.signsUntil(kid)
	case KeyGone, KeyRevoked:
		return l.verifiesUntil(kid)
	default:
		return l[kid].Published
	}
}

// verifies reports whether what the key signed is good. A key that is only published counts: by
// another's clock it may sign already.
func (l keyLine) verifies(kid string, now time.Time) bool {
	state := l.state(kid, now)
	return state != KeyGone && state != KeyRevoked
}

// maySign reports whether the key may sign what it signed before once more.
func (l keyLine) maySign(kid string, now time.Time) bool {
	if !l[kid].Revoked.IsZero() {
		return false
	}
	until := l.signsUntil(kid)
	return until.IsZero() || now.Before(until.Add(sessions.Window+replaySlack))
}

// coming returns the key that has the word and signs in a moment, "" for none.
func (l keyLine) coming(now time.Time) string {
	for kid, life := range l {
		if life.Signs.After(now) && life.Signs.Before(now.Add(2*signNotice)) && life.Revoked.IsZero() {
			return kid
		}
	}
	return ""
}

// pending returns the key that is to sign next by an operator's word, "" for none. A wish of
// before the newest key took the word was overtaken by it.
func (l keyLine) pending(now time.Time) string {
	done := l[l.newest(now)].Signs
	next := ""
	for kid, life := range l {
		if life.Wanted.IsZero() || !life.Signs.IsZero() || !life.Revoked.IsZero() || !life.Wanted.After(done) {
			continue
		}
		if next == "" || cmp.Or(life.Wanted.Compare(l[next].Wanted), cmp.Compare(kid, next)) < 0 {
			next = kid
		}
	}
	return next
}
