package registry

// StirAll has the next tick look at all of every server.
func (t *Table) StirAll() { t.stirAll() }

// Skewed returns what is wrong with the clock that dated a heartbeat, false if nothing is.
var Skewed = skewed
