package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
)

// Caller sends a request over NATS and returns the answer, or an error: at once where nobody
// serves the subject, at the latest when ctx ends, whose deadline goes with the request. It is
// never sent twice. It is safe for concurrent use.
type Caller interface {
	Call(ctx context.Context, subject string, header map[string][]string, data []byte) (answerHeader map[string][]string, answer []byte, err error)
}

// Times and bounds of questions to other regions.
const (
	// askJitter spreads the questions of many registries that have missed the same.
	askJitter = 200 * time.Millisecond
	// viewTimeout bounds the answer to one part of a view, viewLimit to all of them; viewParts
	// is how many are asked for at once.
	viewTimeout = 2 * time.Second
	viewLimit   = 10 * time.Second
	viewParts   = 4
	// witnessTimeout bounds a question about servers of the own region, maxInquiries how many
	// are under way.
	witnessTimeout = time.Second
	maxInquiries   = 32
	// surveyTimeout bounds a round of probes of a region.
	surveyTimeout = 4 * time.Second
)

// probe asks a server; what comes of it goes through the inbox.
func (r *Registry) probe(ctx context.Context, due ProbeDue) {
	room := r.probes
	if due.First {
		room = r.firstProbes
	}
	if room.Acquire(ctx, 1) != nil {
		return
	}
	defer room.Release(1)
	err := r.cfg.Prober.Probe(ctx, due.URL)
	if ctx.Err() != nil {
		return
	}
	r.metrics.probes.WithLabelValues(string(outcomeOf(err))).Inc()
	r.inbox.learned(ProbeDone{Server: due.Server, Boot: due.Boot, OK: err == nil, Refused: errors.Is(err, ErrRefused)})
}

// call asks the registry of a region and counts how it went.
func (r *Registry) call(ctx context.Context, region, method string, question any) (answer []byte, err error) {
	defer func() {
		outcome := "answered"
		if err != nil {
			outcome = "failed"
			r.log.LogAttrs(ctx, slog.LevelDebug, "region did not answer", slog.String("region", region),
				slog.String("method", method), slog.String("error", err.Error()))
		}
		r.metrics.asked.WithLabelValues(method, outcome).Inc()
	}()
	if r.cfg.Caller == nil {
		return nil, fmt.Errorf("ask %s: no way to call is configured", region)
	}
	data, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	subject := events.Subject{
		Kind: events.KindRPC, Service: "registry", Jurisdiction: events.GlobalJurisdiction, Region: region, Method: method,
	}
	_, answer, err = r.cfg.Caller.Call(ctx, subject.String(), nil, data)
	return answer, err
}

// askView asks a region for its whole view.
func (r *Registry) askView(ctx context.Context, region string) {
	if !sleep(ctx, rand.N(askJitter)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, viewLimit)
	defer cancel()
	u, err := r.readView(ctx, region)
	if err == nil {
		r.log.LogAttrs(ctx, slog.LevelInfo, "view of another region read", slog.String("region", region), slog.Int("servers", len(u.Servers)))
	}
	r.inbox.learned(ViewAnswered{Region: region, Update: u})
}

// readView reads all parts of a region's view and makes them one update. It is as of the part
// that was answered first: what has changed since then may be in it or not.
func (r *Registry) readView(ctx context.Context, region string) (*events.ViewUpdate, error) {
	first, err := r.readPart(ctx, region, ViewRequest{})
	if err != nil {
		return nil, err
	}
	parts := make([]*events.ViewUpdate, first.Of)
	parts[0] = first
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(viewParts)
	for i := 1; i < first.Of; i++ {
		g.Go(func() (err error) {
			parts[i], err = r.readPart(ctx, region, ViewRequest{Part: i + 1, Of: first.Of})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return joined(parts), nil
}

// joined makes the parts of a view one update, with the sequence and time of the earliest.
func joined(parts []*events.ViewUpdate) *events.ViewUpdate {
	all := *parts[0]
	all.Part, all.Of, all.Servers = 1, 1, nil
	for _, p := range parts {
		all.Servers = append(all.Servers, p.Servers...)
		if p.Seq < all.Seq {
			all.Seq, all.At = p.Seq, p.At
		}
	}
	return &all
}

func (r *Registry) readPart(ctx context.Context, region string, q ViewRequest) (*events.ViewUpdate, error) {
	ctx, cancel := context.WithTimeout(ctx, viewTimeout)
	defer cancel()
	data, err := r.call(ctx, region, MethodView, q)
	if err != nil {
		return nil, err
	}
	e, err := events.Decode(events.Subject{Kind: events.KindView, Region: region}.String(), data)
	if err != nil {
		return nil, err
	}
	u, ok := e.(*events.ViewUpdate)
	if !ok || !u.Full || u.Of > maxParts || u.Part != max(q.Part, 1) || q.Of != 0 && u.Of != q.Of {
		return nil, fmt.Errorf("region %s answered something else than part %d of its view", region, max(q.Part, 1))
	}
	return u, nil
}

// askProbes has a region probe servers, nil if it does not answer.
func (r *Registry) askProbes(ctx context.Context, region string, servers []string) map[string]Outcome {
	data, err := r.call(ctx, region, MethodProbe, ProbeRequest{Servers: servers})
	var reply ProbeReply
	if err != nil || json.Unmarshal(data, &reply) != nil || reply.Region != region {
		return nil
	}
	return reply.Outcomes
}

// inquire asks other regions about all servers that are to be asked about since the last tick,
// many at a time.
func (r *Registry) inquire(ctx context.Context, g *errgroup.Group) {
	byRegion := map[string][]WitnessDue{}
	for _, due := range r.witnesses {
		for _, region := range due.Regions {
			byRegion[region] = append(byRegion[region], due)
		}
	}
	r.witnesses = r.witnesses[:0]
	for region, all := range byRegion {
		for list := range slices.Chunk(all, MaxProbed) {
			select {
			case r.inquiries <- struct{}{}:
				g.Go(func() error {
					defer func() { <-r.inquiries }()
					r.askWitness(ctx, region, list)
					return nil
				})
			default:
				r.testify(list, nil) // they are asked about again, if they live so long
			}
		}
	}
}

// askWitness asks a region about servers of the own one.
func (r *Registry) askWitness(ctx context.Context, region string, list []WitnessDue) {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	ids := make([]string, len(list))
	for i, due := range list {
		ids[i] = due.Server
	}
	r.testify(list, r.askProbes(ctx, region, ids))
}

// testify hands on what a region has found, and counts it.
func (r *Registry) testify(list []WitnessDue, outcomes map[string]Outcome) {
	for _, due := range list {
		w, outcome := Witnessed{Server: due.Server, Boot: due.Boot}, "none"
		switch outcomes[due.Server] {
		case OutcomeGood:
			w.Good, outcome = true, "good"
		case OutcomeFailed, OutcomeRefused:
			w.Failed, outcome = true, "failed"
		case OutcomeUnknown:
		}
		r.metrics.witnessed.WithLabelValues(outcome).Inc()
		r.inbox.learned(w)
	}
}

// survey has servers of a region probed from here and from other regions.
func (r *Registry) survey(ctx context.Context, due SurveyDue) {
	limited, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	ids := make([]string, len(due.Servers))
	for i, s := range due.Servers {
		ids[i] = s.Server
	}
	var mu sync.Mutex // guards found
	found := map[string]Finding{}
	note := func(region string, outcomes map[string]Outcome) {
		f, ok := findingOf(outcomes, len(ids))
		if !ok {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		found[region] = f
	}
	var wg sync.WaitGroup
	for _, region := range due.Ask {
		wg.Go(func() { note(region, r.askProbes(limited, region, ids)) })
	}
	own := make(map[string]Outcome, len(ids))
	r.scout.all(limited, due.Servers, func(id string, o Outcome) { own[id] = o })
	note(r.cfg.Region, own)
	wg.Wait()
	if ctx.Err() == nil {
		r.inbox.learned(Surveyed{Region: due.Region, Round: due.Round, Found: found})
	}
}

// findingOf counts outcomes. Those of less than half of the servers that were asked about say
// nothing of the region.
func findingOf(outcomes map[string]Outcome, asked int) (f Finding, ok bool) {
	for _, o := range outcomes {
		switch o {
		case OutcomeGood:
			f.Good++
		case OutcomeFailed, OutcomeRefused:
			f.Failed++
		case OutcomeUnknown:
		}
	}
	return f, 2*(f.Good+f.Failed) >= asked && asked > 0
}
