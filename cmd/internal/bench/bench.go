// Package bench measures what berth promises of its speed, each figure beside a floor that is
// measured in the same run: what the same machine needs, at that moment, for as little as can
// be done.
//
// What is measured runs in a process of its own, and so do those who load it, so that the
// processor time of each can be told.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Config says what to measure of a registry.
type Config struct {
	// Setup says how. A phase takes 2 s by itself.
	Setup
	// Servers is the size of the fleet.
	Servers int
	// Full measures also what takes long, or much memory.
	Full bool
}

// maxServers bounds a fleet: a registry takes no more of a region.
const maxServers = 20_000

// connections is how many connections the fleet shares.
const connections = 16

// run is one run of a bench.
type run struct {
	Config
	trial
}

// Registry measures the registry: rows of work with its floor and its goal. A goal that is
// missed is no error.
func Registry(ctx context.Context, c Config) (Report, error) {
	if err := c.prepare("servers", c.Servers, maxServers, 2*time.Second); err != nil {
		return Report{}, fmt.Errorf("bench registry: %w", err)
	}
	r := &run{Config: c, trial: trial{report: Report{Servers: c.Servers}}}
	if err := r.do(ctx, r.heartbeats, r.views, r.manyConnections); err != nil {
		return r.report, fmt.Errorf("bench registry: %w", err)
	}
	return r.report, nil
}

// side starts a process to measure, with a store of its own.
func (r *run) side(ctx context.Context, floor bool) (*child, SideReport, error) {
	dir, err := os.MkdirTemp(r.dir, "nats-")
	if err != nil {
		return nil, SideReport{}, fmt.Errorf("make temporary directory: %w", err)
	}
	args := []string{"bench", "side", "--dir", dir}
	if floor {
		args = append(args, "--floor")
	}
	var report SideReport
	c, err := start(ctx, r.Program, args...)
	if err != nil {
		return nil, report, err
	}
	if err := c.hear(&report); err != nil {
		return nil, report, errors.Join(err, c.close())
	}
	return c, report, nil
}

// load starts a generator for the NATS of a side.
func (r *run) load(ctx context.Context, side SideReport, connections int) (*child, error) {
	return start(ctx, r.Program, "bench", "load", "--address", strings.TrimPrefix(side.URL, "nats://"),
		"--servers", fmt.Sprint(r.Servers), "--connections", fmt.Sprint(connections))
}

// Times of waiting for a side.
const (
	settleLimit = 5 * time.Second
	settlePoll  = 20 * time.Millisecond
)

// await asks a side until it is as wanted, which it reports, or the limit has passed.
func await(side *child, limit time.Duration, wanted func(SideReport) bool) (SideReport, bool, error) {
	for deadline := time.Now().Add(limit); ; time.Sleep(settlePoll) {
		var s SideReport
		if err := side.ask("", &s); err != nil {
			return s, false, err
		}
		if wanted(s) {
			return s, true, nil
		}
		if time.Now().After(deadline) {
			return s, false, nil
		}
	}
}
