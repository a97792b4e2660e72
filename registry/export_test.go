package registry

// StirAll has the next tick look at all of every server.
func (t *Table) StirAll() { t.stirAll() }
