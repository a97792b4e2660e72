package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
)

// Method answers the requests of one method of rpc.registry.
type Method struct {
	// Answer returns the reply. It fails with a *Refusal, wrapped, if the request is at
	// fault, and with ErrNotLeading if another registry of the region is to answer. It is called
	// by many goroutines at once and ends with ctx.
	Answer func(ctx context.Context, request []byte) (reply []byte, err error)
	// Leader says that only the registry that leads answers, so that each of the region's has
	// to hear every request. Otherwise any one of them may.
	Leader bool
}

// ErrNotLeading says that another registry of the region answers, if any does.
var ErrNotLeading = errors.New("another registry leads")

// errNoView says that the registry knows too little yet.
var errNoView = errors.New("the view is not read yet")

// Methods returns what the registry answers while it runs, by the name of the method.
func (r *Registry) Methods() map[string]Method {
	return map[string]Method{
		MethodProbe: {Answer: r.answerProbe},
		MethodView:  {Answer: r.answerView, Leader: true},
		MethodPing: {Answer: answering(func(context.Context, struct{}) (PingReply, error) {
			return PingReply{Region: r.cfg.Region}, nil
		})},
		// What one registry is told it notes for all of them.
		"drain":   {Answer: answering(r.Drain)},
		"undrain": {Answer: answering(r.Undrain)},
		"region":  {Answer: answering(r.SetRegion)},
		"regions": {Answer: answering(func(context.Context, struct{}) ([]RegionStatus, error) { return r.Regions(time.Now()) })},
	}
}

// answering makes an Answer of a function of values. An empty request is the zero value.
func answering[Request, Reply any](fn func(context.Context, Request) (Reply, error)) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, data []byte) ([]byte, error) {
		var q Request
		if len(data) > 0 {
			if err := decodeRequest(data, &q); err != nil {
				return nil, err
			}
		}
		reply, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		return json.Marshal(reply)
	}
}

// answerProbe probes servers of other regions.
func (r *Registry) answerProbe(ctx context.Context, request []byte) ([]byte, error) {
	var q ProbeRequest
	if err := readQuestion(request, &q); err != nil {
		return nil, err
	}
	v := r.View()
	if v == nil {
		return nil, errNoView
	}
	// What was found in time is of use although the rest was not.
	ctx, cancel := early(ctx)
	defer cancel()
	reply := ProbeReply{Region: r.cfg.Region, Outcomes: make(map[string]Outcome, len(q.Servers))}
	var due []ProbeDue
	for _, id := range q.Servers {
		if s, ok := v.Server(id); ok && s.Region != r.cfg.Region {
			due = append(due, ProbeDue{Server: id, URL: s.Health()})
		} else {
			reply.Outcomes[id] = OutcomeUnknown
		}
	}
	r.scout.all(ctx, due, func(id string, o Outcome) { reply.Outcomes[id] = o })
	return json.Marshal(reply)
}

// early returns a context that ends when four fifths of the time are over.
func early(ctx context.Context) (context.Context, context.CancelFunc) {
	at, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(at)*4/5)
}

// viewAsked is a ViewRequest on its way to the loop.
type viewAsked struct {
	ViewRequest
	// reply takes the part, nil if this registry does not lead. It never blocks.
	reply chan<- *events.ViewUpdate
}

func (viewAsked) event() {}

// answerView returns a part of the region's view. Only the leader may: its values alone bear
// the sequences under which other regions know them.
func (r *Registry) answerView(ctx context.Context, request []byte) ([]byte, error) {
	var q ViewRequest
	if err := readQuestion(request, &q); err != nil {
		return nil, err
	}
	reply := make(chan *events.ViewUpdate, 1)
	r.inbox.learned(viewAsked{q, reply})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for view: %w", ctx.Err())
	case u := <-reply:
		if u == nil {
			return nil, ErrNotLeading
		}
		return events.Encode(u)
	}
}

// giveView gives a part of the view to who asked for it.
func (r *Registry) giveView(q viewAsked, now time.Time) {
	if !r.leader.leadsIn(r.term) {
		q.reply <- nil
		return
	}
	q.reply <- r.table.Part(q.Part, q.Of, now)
}

// Part returns a part of the own region's whole view, in so many parts as fit if of is 0; nil
// if nothing was ever told of it.
func (t *Table) Part(part, of int, now time.Time) *events.ViewUpdate {
	if t.seq == 0 {
		return nil
	}
	if of == 0 {
		part, of = 1, len(split(t.order))
	}
	var list []*server
	for _, s := range t.order {
		if partOf(s.value.Server, of) == part {
			list = append(list, s)
		}
	}
	u := t.newUpdate(list, now)
	for i := range u.Servers {
		u.Servers[i].Seq = min(u.Servers[i].Seq, t.seq) // what the next update brings may still change
	}
	u.Full, u.Part, u.Of = true, part, of
	return u
}

// partOf returns in which part, from 1 to of, a server is.
func partOf(id string, of int) int { return 1 + int(fnv1a(id)%uint64(of)) }

// fnv1a is that hash, of 64 bits.
func fnv1a(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s)) // it never fails
	return h.Sum64()
}

const (
	// scoutSlots is how many probes of other regions' servers are under way at once; scoutKeep
	// how long what came of one stands for the next, whoever asks; scoutMemory how many
	// outcomes are kept before the old ones are cleared.
	scoutSlots  = 64
	scoutKeep   = time.Second
	scoutMemory = 4096
)

// scout probes servers of other regions for whoever asks: each at most once a second.
type scout struct {
	prober  *Prober
	metrics *metrics
	slots   chan struct{}

	// mu guards recent: the last probe of each server.
	mu     sync.Mutex
	recent map[string]*sortie
}

// sortie is one probe. outcome is there once done is closed, empty if it was given up.
type sortie struct {
	url     string
	began   time.Time
	done    chan struct{}
	outcome Outcome
}

func newScout(p *Prober, m *metrics) *scout {
	return &scout{prober: p, metrics: m, slots: make(chan struct{}, scoutSlots), recent: map[string]*sortie{}}
}

// all probes servers at once and calls found, one call at a time, with each outcome that is
// there before ctx ends. It returns when all is done.
func (s *scout) all(ctx context.Context, servers []ProbeDue, found func(id string, o Outcome)) {
	var mu sync.Mutex // guards found
	var g errgroup.Group
	g.SetLimit(scoutSlots)
	for _, due := range servers {
		g.Go(func() error {
			if o := s.probe(ctx, due.Server, due.URL); o != "" {
				mu.Lock()
				defer mu.Unlock()
				found(due.Server, o)
			}
			return nil
		})
	}
	_ = g.Wait() // no probe has an error
}

// probe returns what comes of a probe, or has just come of another's; empty if ctx ends before.
func (s *scout) probe(ctx context.Context, id, url string) Outcome {
	p, mine := s.begin(id, url, time.Now())
	if !mine {
		select {
		case <-p.done:
			return p.outcome
		case <-ctx.Done():
			return ""
		}
	}
	defer close(p.done)
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		s.forget(id, p)
		return ""
	}
	err := s.prober.Probe(ctx, url)
	if ctx.Err() != nil {
		s.forget(id, p)
		return ""
	}
	p.outcome = outcomeOf(err)
	s.metrics.scouted.WithLabelValues(string(p.outcome)).Inc()
	return p.outcome
}

// begin returns the probe of a server that is to be made, or that was begun just now.
func (s *scout) begin(id, url string, now time.Time) (p *sortie, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p = s.recent[id]; p != nil && p.url == url && now.Sub(p.began) < scoutKeep {
		return p, false
	}
	if len(s.recent) >= scoutMemory {
		for id, old := range s.recent {
			if now.Sub(old.began) >= scoutKeep {
				delete(s.recent, id)
			}
		}
	}
	p = &sortie{url: url, began: now, done: make(chan struct{})}
	s.recent[id] = p
	return p, true
}

// forget drops a probe that was given up, so that the next who asks makes one.
func (s *scout) forget(id string, p *sortie) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recent[id] == p {
		delete(s.recent, id)
	}
}
