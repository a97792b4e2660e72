package idempotency

import "sync"

// running are the requests that this process serves, so that of those with one key a single one asks the store, and what is
// found there as begun by this process is known to have ended.
type running struct {
	// mu guards the fields below: fingerprints by key, and the executions that have never begun although they may stand in
	// the store as begun, because nobody knows whether they were written.
	mu        sync.Mutex
	keys      map[Key]string
	abandoned map[string]struct{}
}

// maxAbandoned bounds how many of those are remembered. One that is not is outcome_unknown, where it could have been run.
const maxAbandoned = 8192

// enter notes that a key is being served, or returns the fingerprint of the request that it is being served for.
func (r *running) enter(key Key, fingerprint string) (other string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other, busy := r.keys[key]; busy {
		return other, false
	}
	if r.keys == nil {
		r.keys, r.abandoned = map[Key]string{}, map[string]struct{}{}
	}
	r.keys[key] = fingerprint
	return "", true
}

func (r *running) leave(key Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, key)
}

// abandon notes that an execution will never begin.
func (r *running) abandon(op string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.abandoned) < maxAbandoned {
		r.abandoned[op] = struct{}{}
	}
}

// wasAbandoned reports whether an execution has never begun. An entry of it can be written over.
func (r *running) wasAbandoned(op string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.abandoned[op]
	return ok
}

// forget is called once such an entry was written over.
func (r *running) forget(op string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.abandoned, op)
}
