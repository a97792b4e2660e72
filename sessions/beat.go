package sessions

// beat is what follows the jurisdiction in the keys that hold no session. It is of two tokens, so that whoever reads the
// sessions of a jurisdiction, by <jurisdiction>.*, does not get it.
const beat = "_beat.time"

// BeatKey returns the key of a jurisdiction under which a region writes its time, so that regions which get copies of its
// sessions can tell how old they are. No session has such an id: those are ULIDs.
func BeatKey(jurisdiction string) Key { return Key{Jurisdiction: jurisdiction, Session: beat} }

// IsBeat reports whether what the key holds is a beat.
func (k Key) IsBeat() bool { return k.Session == beat }
