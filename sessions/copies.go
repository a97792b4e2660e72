package sessions

import "context"

// Copy is another region's record of a session, as that region last told it.
type Copy struct {
	// Region is the one in whose store the record stands; it need not be the owner.
	Region string
	Record Record
}

// Copies holds what other regions' stores say of sessions, for fold and takeover (V7, V14).
//
// Copies returns of each other region the newest copy that has arrived, none where none has or where its session has ended.
// What one call has returned no later call goes back behind. A copy that cannot be read, or is of a newer version than
// this build's, is left out. An error means that nothing is known, and judging has to wait; there is no partial answer. It
// is safe for concurrent use.
type Copies interface {
	Copies(ctx context.Context, key Key) ([]Copy, error)
}

// beat is the session part of the keys that hold no session.
const beat = "_beat"

// BeatKey returns the key of a jurisdiction under which a region writes its time, so that regions which get copies of its
// sessions can tell how old they are. No session has such an id: those are ULIDs.
func BeatKey(jurisdiction string) Key { return Key{Jurisdiction: jurisdiction, Session: beat} }

// IsBeat reports whether what the key holds is a beat: whoever lists sessions leaves it out.
func (k Key) IsBeat() bool { return k.Session == beat }
