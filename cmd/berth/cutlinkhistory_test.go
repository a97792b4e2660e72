package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/sessions"
)

// history is all that the regions of a fleet write of their sessions, as each region's own
// streams tell it, whether the region is cut off or not.
type history struct {
	t *testing.T

	// mu guards the fields below, which several streams fill.
	mu sync.Mutex
	// made are the refresh tokens of each session by their stamps, servers its server by epoch.
	made    map[string]map[sessions.Stamp]made
	servers map[string]map[events.Epoch]string
	// conflicts counts the conflicts told of each session, ended the events by which one ended.
	conflicts, ended map[string]int
	// apart counts what was written of sessions of one region's own jurisdiction.
	apart int
}

// made is one refresh token, as its record tells of it.
type made struct {
	parent sessions.Stamp
	at     time.Time
	reason string
	// knows is what the record tells of the lines that were taken over.
	knows string
}

// ownJurisdiction is that of sessions which are to stay where they are, in the region apart.
const ownJurisdiction = "eu"

// watchHistory follows all regions until the test ends. Sessions of ownJurisdiction belong to
// the region apart alone.
func watchHistory(t *testing.T, f *processes, apart string) *history {
	t.Helper()
	h := &history{
		t: t, made: map[string]map[sessions.Stamp]made{}, servers: map[string]map[events.Epoch]string{},
		conflicts: map[string]int{}, ended: map[string]int{},
	}
	for region, r := range f.regions {
		nc, err := nats.Connect(r.nats.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := natsjs.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		h.follow(js, "KV_"+jetstream.BucketSessions, func(subject string, data []byte) {
			key := strings.TrimPrefix(subject, "$KV."+jetstream.BucketSessions+".")
			h.inside(region, apart, key)
			h.record(region, data)
		})
		h.follow(js, jetstream.StreamCopies, func(subject string, _ []byte) {
			h.inside(region, apart, strings.TrimPrefix(subject, events.Copies("")))
		})
		own := events.Subject{Kind: events.KindSession, Region: region}.Filter()
		if _, err := nc.Subscribe(own, func(m *nats.Msg) { h.told(m.Subject, m.Data) }); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// follow hands over all that a stream holds and gets.
func (h *history) follow(js natsjs.JetStream, stream string, fn func(subject string, data []byte)) {
	h.t.Helper()
	c, err := js.OrderedConsumer(h.t.Context(), stream, natsjs.OrderedConsumerConfig{})
	if err != nil {
		h.t.Fatal(err)
	}
	reading, err := c.Consume(func(m natsjs.Msg) { fn(m.Subject(), m.Data()) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(reading.Stop)
}

// inside checks that nothing of a session is where its jurisdiction does not reach.
func (h *history) inside(region, apart, key string) {
	jurisdiction, _, _ := strings.Cut(key, ".")
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case jurisdiction == ownJurisdiction && region == apart:
		h.apart++
	case jurisdiction != events.GlobalJurisdiction:
		h.t.Errorf("region %s holds %s", region, key)
	}
}

// record takes what a region has written. Tokens are made by who owns the session, and by the
// commit of a handover.
func (h *history) record(region string, data []byte) {
	rec, err := sessions.DecodeRecord(data)
	if err != nil || rec.Session == "" || rec.Jurisdiction != events.GlobalJurisdiction || rec.Key().IsBeat() {
		return
	}
	commits := rec.State == sessions.StateMoved && rec.Epoch.Region != region
	if !commits && (rec.State != sessions.StateActive || rec.Epoch.Region != region) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.made[rec.Session] == nil {
		h.made[rec.Session], h.servers[rec.Session] = map[sessions.Stamp]made{}, map[events.Epoch]string{}
	}
	if at, ok := h.servers[rec.Session][rec.Epoch]; ok && at != rec.Server {
		h.t.Errorf("session %s has two servers at one epoch, %s and %s: %s", rec.Session, at, rec.Server, rec.Current())
	}
	h.servers[rec.Session][rec.Epoch] = rec.Server
	if _, known := h.made[rec.Session][rec.Current()]; known {
		return
	}
	a := rec.Answer
	h.made[rec.Session][rec.Current()] = made{parent: rec.Parent, at: rec.MintedAt, reason: a.Reason, knows: fmt.Sprint(rec.Taken, rec.Abandoned)}
	if !rec.CriticalSince.IsZero() && a.Decision == string(placement.VerdictMove) && !mayMoveCritical(a.Reason) {
		h.t.Errorf("session %s has a critical task and was moved to %s: %s", rec.Session, rec.Server, a.Reason)
	}
}

// mayMoveCritical reports whether a session with a critical task may be moved for the reason.
func mayMoveCritical(reason string) bool {
	switch placement.Reason(reason) {
	case placement.ReasonServerDown, placement.ReasonRegionDown, placement.ReasonUnreachable, placement.ReasonLogin:
		return true
	default:
		return false
	}
}

// told takes a region's event of a session.
func (h *history) told(subject string, data []byte) {
	e, err := events.Decode(subject, data)
	if err != nil {
		h.t.Errorf("%s: %v", subject, err)
		return
	}
	s, ok := e.(*events.Session)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch s.Kind {
	case events.SessionConflict:
		h.conflicts[s.Session]++
	case events.SessionRevoked, events.SessionReused:
		h.ended[s.Session]++
	}
}

// forks counts, for each session that has any, how often two regions have redeemed one token
// without knowing of each other: whoever makes a token gives it a generation above all that it
// knows of, so the two have the same.
func (h *history) forks() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	forks := map[string]int{}
	for session, tokens := range h.made {
		type redeemed struct {
			parent sessions.Stamp
			gen    uint64
		}
		by := map[redeemed]map[string]bool{}
		for at, m := range tokens {
			if m.parent.IsZero() {
				continue
			}
			r := redeemed{m.parent, at.Gen}
			if by[r] == nil {
				by[r] = map[string]bool{}
			}
			by[r][at.Epoch.Region] = true
		}
		for _, regions := range by {
			if n := len(regions) - 1; n > 0 {
				forks[session] += n
			}
		}
	}
	return forks
}

// line describes all tokens of a session, in the order in which they were made.
func (h *history) line(session string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	tokens := h.made[session]
	order := slices.SortedFunc(maps.Keys(tokens), func(a, b sessions.Stamp) int { return tokens[a].at.Compare(tokens[b].at) })
	var text strings.Builder
	for _, at := range order {
		m := tokens[at]
		fmt.Fprintf(&text, "\n%s %s from %s: %s %s", m.at.Format("05.000"), at, m.parent, m.reason, m.knows)
	}
	return "session " + session + ":" + text.String()
}

// conflicted returns how many conflicts were told of each session.
func (h *history) conflicted() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.conflicts)
}

// endings returns the sessions that were told to have ended.
func (h *history) endings() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.ended)
}

// highest returns the highest epoch at which a token of the session was made.
func (h *history) highest(session string) (e events.Epoch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for at := range h.made[session] {
		if at.Epoch.Compare(e) > 0 {
			e = at.Epoch
		}
	}
	return e
}

// wentOn reports whether a region has made tokens of a session after another had taken it over.
func (h *history) wentOn(session, region string, since time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	var taken, last time.Time
	for at, m := range h.made[session] {
		switch {
		case at.Epoch.Region == region:
			if m.at.After(last) {
				last = m.at
			}
		case m.reason == string(placement.ReasonRegionDown) && m.at.After(since) && (taken.IsZero() || m.at.Before(taken)):
			taken = m.at
		}
	}
	return !taken.IsZero() && last.After(taken)
}

// takenOver reports whether a session was taken over since then.
func (h *history) takenOver(session string, since time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(slices.Collect(maps.Values(h.made[session])), func(m made) bool {
		return m.reason == string(placement.ReasonRegionDown) && m.at.After(since)
	})
}
