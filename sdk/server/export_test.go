package server

import (
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// Open returns how many requests are ended when their sessions leave.
func (a *Agent) Open() int {
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	return len(a.open.left)
}

// NewLimits returns what takes a request at its limits.
func NewLimits(l Limits) func(org string, part float64, now time.Time) *api.Error {
	return newLimiters(l).take
}

// Part returns the server's part of the region's capacity.
func (a *Agent) Part() float64 { return a.part() }
