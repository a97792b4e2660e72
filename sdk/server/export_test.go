package server

// Open returns how many requests are ended when their sessions leave.
func (a *Agent) Open() int {
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	return len(a.open.left)
}
