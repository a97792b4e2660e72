package server

import (
	"hash/fnv"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
)

// Bounds of what is known of the region's token services.
const (
	// maxInstances is how many are remembered, instanceLife for how long after their last answer.
	maxInstances = 64
	instanceLife = 5 * time.Minute
	// exploreFirst is how many refreshes go to any of them at the start and after one has failed,
	// exploreEvery one of how many later: so all are found, and new ones.
	exploreFirst = 32
	exploreEvery = 64
	// instanceTimeout is how long a chosen one may take before any is asked: longer than it waits
	// for a store that does not answer, for then it alone remembers the session.
	instanceTimeout = 3500 * time.Millisecond
)

// instances chooses which token service refreshes a session: always the same one, so that it
// remembers the session's record. It knows of those that have answered, and it is of no
// consequence but for speed: whichever service is asked can answer, and one that does not is
// asked no more. It is safe for concurrent use.
type instances struct {
	// mu guards the fields below: when each instance last answered, and for how many refreshes one
	// was to be chosen.
	mu     sync.Mutex
	heard  map[string]time.Time
	chosen uint64
}

func newInstances() *instances { return &instances{heard: map[string]time.Time{}} }

// choose returns the instance for a session, by the highest hash of both; false if any may be
// asked.
func (n *instances) choose(session string, now time.Time) (string, bool) {
	if session == "" {
		return "", false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.chosen++; n.chosen <= exploreFirst || n.chosen%exploreEvery == 0 {
		return "", false
	}
	var best string
	var highest uint64
	for id, at := range n.heard {
		if now.Sub(at) > instanceLife {
			delete(n.heard, id)
			continue
		}
		if weight := weigh(session, id); best == "" || weight > highest || weight == highest && id < best {
			best, highest = id, weight
		}
	}
	return best, best != ""
}

// weigh returns the hash of a session and an instance.
func weigh(session, id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id + "." + session)) // it never fails
	// FNV hardly mixes the last bytes into the high bits; this is the finalizer of MurmurHash3.
	v := h.Sum64()
	v ^= v >> 33
	v *= 0xff51afd7ed558ccd
	v ^= v >> 33
	v *= 0xc4ceb9fe1a85ec53
	return v ^ v>>33
}

// answered notes that an instance is alive. A name that could not stand in a subject is none.
func (n *instances) answered(id string, now time.Time) {
	if !events.ValidToken(id) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.heard[id]; known || len(n.heard) < maxInstances {
		n.heard[id] = now
	}
}

// failed forgets an instance that did not answer.
func (n *instances) failed(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.heard, id)
	n.chosen = 0
}
