package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/berthhq/berth/tokens/api"
)

// Request is what a caller sent.
type Request struct {
	Header map[string][]string
	Data   []byte
}

// Reply is what is answered.
type Reply struct {
	Header map[string][]string
	Data   []byte
	// Silent says that nothing is answered: another instance does. It is for endpoints with Every.
	Silent bool
}

// ErrorReply returns a reply that Call makes a *ServiceError. Its description is one line.
func ErrorReply(code, description string) Reply {
	line := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, description)
	return Reply{Header: map[string][]string{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {line}}}
}

// Endpoint is one subject that a service answers.
type Endpoint struct {
	// Name names it in `nats micro info`: letters, digits, "-" and "_".
	Name string
	// Subject is what it answers. Instances of the service share the requests between them.
	Subject string
	// Every says that every instance gets every request instead. All but one of them answer with Silent.
	Every bool
	// Handler answers a request. ctx ends at the request's deadline, after which no reply is sent any more. It is called
	// by many goroutines at once.
	Handler func(ctx context.Context, r Request) Reply
}

// ServiceConfig describes a service of request and reply.
type ServiceConfig struct {
	// Name is the service's name in `nats micro ls`. Required.
	Name string
	// Version is a semantic version. Required.
	Version string
	// Description is for people.
	Description string
	// Endpoints are what it answers. Required.
	Endpoints []Endpoint
	// Concurrency is how many requests are handled at once, over all endpoints; others wait. Zero: 256.
	Concurrency int
	// Timeout is the deadline of requests that carry none in the header api.HeaderDeadline, counted from their arrival.
	// Zero: 10 s.
	Timeout time.Duration
	// Grace is how long requests in flight may take to end when the service stops. Zero: 2 s.
	Grace time.Duration
	// Started is called once NATS knows of the endpoints. Nil: nobody is told.
	Started func()
}

func (c *ServiceConfig) validate() error {
	switch {
	case len(c.Endpoints) == 0:
		return errors.New("no endpoints")
	case c.Concurrency < 0:
		return fmt.Errorf("concurrency %d: want at least 0", c.Concurrency)
	case c.Timeout < 0 || c.Grace < 0:
		return fmt.Errorf("timeout %v, grace %v: want at least 0", c.Timeout, c.Grace)
	}
	for _, e := range c.Endpoints {
		if e.Handler == nil {
			return fmt.Errorf("endpoint %s: no handler", e.Name)
		}
	}
	return nil
}

// Defaults of a service.
const (
	defaultConcurrency = 256
	defaultTimeout     = 10 * time.Second
	defaultGrace       = 2 * time.Second
	// quiet is how long nothing may arrive before a stopped service is taken to be drained.
	quiet = 20 * time.Millisecond
)

// Serve answers requests until ctx ends, then takes no more, ends those in flight and returns nil. It shows in
// `nats micro ls` and `nats micro stats`, where the time is what a request waits for its turn; how long handlers take is
// in the endpoint's own data there.
func (c *Conn) Serve(ctx context.Context, cfg ServiceConfig) error {
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("configure service %s: %w", cfg.Name, err)
	}
	s := newService(c, cfg)
	defer s.cancel()
	m, err := micro.AddService(c.nc, micro.Config{
		Name: cfg.Name, Version: cfg.Version, Description: cfg.Description,
		StatsHandler: s.stats,
	})
	if err != nil {
		return fmt.Errorf("add service %s: %w", cfg.Name, err)
	}
	for _, e := range cfg.Endpoints {
		h := &endpoint{service: s, handler: e.Handler}
		s.endpoints[e.Name] = h
		options := []micro.EndpointOpt{micro.WithEndpointSubject(e.Subject)}
		if e.Every {
			options = append(options, micro.WithEndpointQueueGroupDisabled())
		}
		if err := m.AddEndpoint(e.Name, h, options...); err != nil {
			return errors.Join(fmt.Errorf("add endpoint %s of service %s: %w", e.Name, cfg.Name, err), m.Stop())
		}
	}
	s.ready.Store(true)
	if cfg.Started != nil {
		for c.Flush(ctx) != nil && sleep(ctx, nobodyWait) {
		}
		if ctx.Err() == nil {
			cfg.Started()
		}
	}
	<-ctx.Done()
	return s.drain(m)
}

// service is a running Serve.
type service struct {
	conn   *Conn
	cfg    ServiceConfig
	slots  chan struct{}
	base   context.Context
	cancel context.CancelFunc

	// endpoints is complete when ready is set, and not changed afterwards.
	endpoints map[string]*endpoint
	ready     atomic.Bool

	arrived  atomic.Int64
	inFlight atomic.Int64

	// mu guards stopped: no handler begins once it is set, so that handlers can be waited for.
	mu       sync.Mutex
	stopped  bool
	handlers sync.WaitGroup
}

// begin runs fn in a goroutine of its own, unless the service has stopped.
func (s *service) begin(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.handlers.Go(fn)
	}
	return !s.stopped
}

func newService(c *Conn, cfg ServiceConfig) *service {
	if cfg.Concurrency == 0 {
		cfg.Concurrency = defaultConcurrency
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	s := &service{conn: c, cfg: cfg, slots: make(chan struct{}, cfg.Concurrency), endpoints: map[string]*endpoint{}}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s
}

// drain takes no more requests and waits for those that are here.
func (s *service) drain(m micro.Service) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Grace)
	defer cancel()
	err := m.Stop()
	if s.conn.nc.IsConnected() {
		// Once the server has answered, no more requests are on their way.
		_ = s.conn.nc.FlushWithContext(ctx)
	}
	for before := int64(-1); sleep(ctx, quiet); {
		now := s.arrived.Load()
		if now == before && s.inFlight.Load() == 0 {
			break
		}
		before = now
	}
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.cancel()
	s.handlers.Wait()
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("stop service %s: %w", s.cfg.Name, err)
	}
	return nil
}

// stats is the part of an endpoint's statistics that is ours.
func (s *service) stats(e *micro.Endpoint) any {
	if !s.ready.Load() || s.endpoints[e.Name] == nil {
		return nil
	}
	h := s.endpoints[e.Name]
	answered := h.answered.Load()
	var average time.Duration
	if answered > 0 {
		average = time.Duration(h.busy.Load() / answered)
	}
	return map[string]any{
		"answered": answered, "expired": h.expired.Load(), "stray": h.stray.Load(), "in_flight": s.inFlight.Load(),
		"average_ms": float64(average) / float64(time.Millisecond),
	}
}

// endpoint passes requests to a handler.
type endpoint struct {
	service *service
	handler func(context.Context, Request) Reply
	// answered counts replies, busy adds up the nanoseconds that they took, expired counts requests past their deadline.
	answered, busy, expired atomic.Int64
	// stray counts requests that wanted their answer elsewhere than in an inbox.
	stray atomic.Int64
}

// isInbox reports whether a reply goes to who asks, be it through another account. NATS does not ask whether who sends a
// request may publish on its reply subject: an answer on a subject of a bucket would be a write in the service's name.
func isInbox(reply string) bool {
	return strings.HasPrefix(reply, "_INBOX") || strings.HasPrefix(reply, "_R_.")
}

// Handle implements micro.Handler. It is called for one request of the endpoint at a time and returns once the request
// has a goroutine of its own, so that a service with all slots taken leaves requests to NATS.
func (e *endpoint) Handle(r micro.Request) {
	s := e.service
	if !isInbox(r.Reply()) {
		e.stray.Add(1)
		return
	}
	s.arrived.Add(1)
	s.inFlight.Add(1)
	header := nats.Header(r.Headers())
	ctx, cancel := context.WithDeadline(s.base, deadline(header, time.Now().Add(s.cfg.Timeout)))
	subject, reply, request := r.Subject(), r.Reply(), Request{Header: header, Data: r.Data()}
	begun := e.slot(ctx) && s.begin(func() {
		defer func() {
			cancel()
			<-s.slots
			s.inFlight.Add(-1)
		}()
		e.answer(ctx, subject, reply, request)
	})
	if !begun {
		e.expired.Add(1)
		s.inFlight.Add(-1)
		cancel()
	}
}

// slot waits until the request may be handled, and reports whether that was before its deadline.
func (e *endpoint) slot(ctx context.Context) bool {
	select {
	case e.service.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if ctx.Err() != nil {
		<-e.service.slots
		return false
	}
	return true
}

// answer handles one request and sends the reply, unless its deadline has passed.
func (e *endpoint) answer(ctx context.Context, subject, reply string, r Request) {
	began := time.Now()
	answer := e.call(ctx, subject, r)
	if answer == nil {
		return
	}
	answer.Subject = reply
	if ctx.Err() != nil {
		e.expired.Add(1)
		return
	}
	if err := e.service.conn.nc.PublishMsg(answer); err != nil {
		e.service.conn.log.LogAttrs(ctx, slog.LevelWarn, "reply could not be sent",
			slog.String("subject", subject), slog.String("error", err.Error()))
		return
	}
	e.answered.Add(1)
	e.busy.Add(int64(time.Since(began)))
}

// call runs the handler and returns its reply, nil for none. One that panics costs its own request alone, as in net/http.
func (e *endpoint) call(ctx context.Context, subject string, r Request) (answer *nats.Msg) {
	defer func() {
		if fault := recover(); fault != nil {
			e.service.conn.log.LogAttrs(ctx, slog.LevelError, "handler of a request panicked",
				slog.String("subject", subject), slog.Any("panic", fault), slog.String("stack", string(debug.Stack())))
			answer = &nats.Msg{Header: nats.Header{micro.ErrorCodeHeader: {"500"}, micro.ErrorHeader: {"internal error"}}}
		}
	}()
	reply := e.handler(ctx, r)
	if reply.Silent {
		return nil
	}
	return &nats.Msg{Header: reply.Header, Data: reply.Data}
}

// deadline returns when a request ends: its own deadline, if that comes before latest.
func deadline(h nats.Header, latest time.Time) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, h.Get(api.HeaderDeadline)); err == nil && at.Before(latest) {
		return at
	}
	return latest
}
