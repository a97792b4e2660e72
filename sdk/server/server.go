// Package server promises that a regional server serves a session only while the session is
// locked to it, and that the fleet knows how this server fares.
//
// An Agent is embedded in the user's own API server. Its Run sends heartbeats, follows the
// public keys, the released locks and the active servers; its Lock guards the API's routes;
// its TokenPaths pass login and refresh on to the region's token services. A request is
// judged from memory alone: without NATS the server goes on serving the clients it has, for
// as long as their access tokens last.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens/api"
)

// Config is what an Agent needs. Fields without a stated zero value are required.
type Config struct {
	// Server is this server's id, unique in the fleet; Region is where it stands.
	Server, Region string
	// Member names this process among several behind one URL. Empty: there is just one.
	Member string
	// Boot is the ULID of this start of the process, as it stands in the connection's name.
	// Empty: one is made.
	Boot string
	// URL is where clients reach the server, http(s)://host.
	URL string
	// HealthURL is where probes ask. Empty: URL + "/healthz".
	HealthURL string
	// AuthURL is the base of the token paths that TokenPaths serves. Empty: URL.
	AuthURL string
	// Location is the place of the server. Zero: latitude 0, longitude 0.
	Location events.Location
	// Capacity is how many sessions the server can hold, at least 1.
	Capacity int
	// MaxInFlight is how many requests the server can bear at once. 0: unknown.
	MaxInFlight int
	// Interval is the time between heartbeats, 100 ms to 60 s, give or take a tenth. 0: 1 s.
	Interval time.Duration

	// Issuer is the claim iss that access tokens must carry, Audience the claim aud. Audience
	// empty: the issuer.
	Issuer, Audience string
	// AccessTTL is the life of an access token, 1 to 5 min: a session counts as held here if
	// it was seen within. 0: 2 min.
	AccessTTL time.Duration
	// CachedTokens is how many verified tokens are remembered, rounded up to a power of two,
	// at most 1 048 576. 0: four times Capacity, from 8 192 to 65 536.
	CachedTokens int
	// MaxSessions bounds the sessions whose floors are remembered. 0: eight times Capacity,
	// at least 65 536.
	MaxSessions int

	// Shadow serves all requests, and only counts and logs those that Lock would refuse: to see what
	// would change before it does. Enforce sets it for single routes.
	Shadow bool
	// Limits bound the requests of the region. Zero: no limits.
	Limits Limits
	// OpenGrace is how long a request may still go on, as a stream does, once its session has left the
	// server or has ended; at most 28 s. 0: 20 s.
	OpenGrace time.Duration

	// Load may replace the sampled load in each heartbeat. A load that is not finite and at
	// least 0 is ignored. One that leaves the load to central telemetry returns a zero Load.
	// nil: the sample is sent.
	Load func(sampled events.Load) events.Load
	// Alive fails while the application does not serve, for an agent that runs beside it: no heartbeat
	// is sent then. It must not block. nil: the application lives as long as the agent.
	Alive func() error
	// ClientAddress returns the network address of a client, for token services. nil: the
	// address of the connection's other end; behind a load balancer that is the balancer.
	ClientAddress func(*http.Request) string

	// Bus, Recent, Caller and Watcher are the connection to NATS.
	Bus     Bus
	Recent  Recent
	Caller  Caller
	Watcher registry.Watcher
	// Log takes what an operator should know, each line with the server's id. nil: discarded.
	Log *slog.Logger
	// Metrics registers the agent's metrics. nil: not registered.
	Metrics prometheus.Registerer
}

// Bounds and defaults of a Config.
const (
	defaultInterval  = time.Second
	minInterval      = 100 * time.Millisecond
	maxInterval      = time.Minute
	defaultAccessTTL = 2 * time.Minute
	minAccessTTL     = time.Minute
	maxAccessTTL     = 5 * time.Minute
	minCachedTokens  = 8192
	maxCachedDefault = 65_536
	maxCachedTokens  = 1 << 20
	minMaxSessions   = 65_536
	defaultOpenGrace = 20 * time.Second
	maxOpenGrace     = 28 * time.Second // with the second until it is seen, below 30 s
)

func (c *Config) setDefaults() {
	c.Interval = cmp.Or(c.Interval, defaultInterval)
	c.AccessTTL = cmp.Or(c.AccessTTL, defaultAccessTTL)
	c.Audience = cmp.Or(c.Audience, c.Issuer)
	c.Boot = cmp.Or(c.Boot, ulid.Make().String())
	c.CachedTokens = cmp.Or(c.CachedTokens, min(max(4*c.Capacity, minCachedTokens), maxCachedDefault))
	c.MaxSessions = cmp.Or(c.MaxSessions, max(8*c.Capacity, minMaxSessions))
	c.OpenGrace = cmp.Or(c.OpenGrace, defaultOpenGrace)
	if c.Alive == nil {
		c.Alive = func() error { return nil }
	}
	if c.ClientAddress == nil {
		c.ClientAddress = peerAddress
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Log = c.Log.With(slog.String("server", c.Server))
}

// validate returns the first fault.
func (c *Config) validate() error {
	switch {
	case c.Issuer == "":
		return errors.New("issuer is empty")
	case c.Interval < minInterval || c.Interval > maxInterval:
		return fmt.Errorf("interval %s: want %s to %s", c.Interval, minInterval, maxInterval)
	case c.AccessTTL < minAccessTTL || c.AccessTTL > maxAccessTTL:
		return fmt.Errorf("access TTL %s: want %s to %s", c.AccessTTL, minAccessTTL, maxAccessTTL)
	case c.MaxInFlight < 0:
		return fmt.Errorf("max in flight %d: want at least 0", c.MaxInFlight)
	case c.CachedTokens < 1 || c.CachedTokens > maxCachedTokens:
		return fmt.Errorf("cached tokens %d: want 1 to %d", c.CachedTokens, maxCachedTokens)
	case c.OpenGrace < 0 || c.OpenGrace > maxOpenGrace:
		return fmt.Errorf("open grace %s: want 0 to %s", c.OpenGrace, maxOpenGrace)
	case c.MaxSessions < 1:
		return fmt.Errorf("max sessions %d: want at least 1", c.MaxSessions)
	case c.Bus == nil, c.Recent == nil, c.Caller == nil, c.Watcher == nil:
		return errors.New("bus, recent, caller and watcher are required")
	}
	if err := c.Limits.validate(); err != nil {
		return err
	}
	for _, u := range [][2]string{{"url", c.URL}, {"health URL", c.HealthURL}, {"auth URL", c.AuthURL}} {
		if err := checkURL(u[0], u[1], u[0] != "url"); err != nil {
			return err
		}
	}
	return nil
}

func checkURL(name, raw string, optional bool) error {
	if raw == "" && optional {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("%s %q: want http(s)://host", name, raw)
	}
	return nil
}

// Agent is a regional server's part of berth. It is safe for concurrent use.
type Agent struct {
	cfg      Config
	verifier api.Verifier
	keys     *publicKeys
	cache    *tokenCache
	sessions *sessionTable
	// residence is which jurisdictions are served in the region.
	residence residence
	// instances are the token services of the region.
	instances *instances
	// breaker is open while those do not answer.
	breaker circuitbreaker.CircuitBreaker[answer]
	// open are the requests that go on for long, shadowed tells of those that Lock would refuse.
	open     *openRequests
	limiters *limiters
	shadowed complaint
	meter    *meter
	servers  *registry.Subscription
	metrics  *metrics
	log      *slog.Logger

	// current says that the released locks and revocations of the recent past were read:
	// before that nothing is accepted.
	current atomic.Bool
	// drain is what Drain was told, nil before; announce wakes the heartbeat to say so.
	drain    atomic.Pointer[drain]
	announce chan struct{}
	// seq numbers the heartbeats; silent says that the last could not be sent.
	seq    atomic.Uint64
	silent atomic.Bool
}

// New returns an agent, or the first fault of its configuration. It does no I/O.
func New(c Config) (*Agent, error) {
	c.setDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("configure server: %w", err)
	}
	a := &Agent{
		cfg: c, log: c.Log,
		cache: newTokenCache(c.CachedTokens), sessions: newSessionTable(c.MaxSessions), instances: newInstances(), open: newOpenRequests(), limiters: newLimiters(c.Limits), breaker: newBreaker(c.Log), shadowed: complaint{limit: rate.NewLimiter(rate.Every(time.Second), complaintBurst)},
		meter: newMeter(), announce: make(chan struct{}, 1),
	}
	a.keys = newPublicKeys(a)
	a.metrics = newMetrics(c.Metrics, a.sessions)
	a.verifier = api.Verifier{Key: a.keys.key, Retired: a.keys.retired, Issuer: c.Issuer, Audience: c.Audience}
	var err error
	a.servers, err = registry.Subscribe(registry.SubscriptionConfig{Watcher: c.Watcher, Log: c.Log, Metrics: c.Metrics})
	if err != nil {
		return nil, fmt.Errorf("configure server: %w", err)
	}
	// The wire knows best what a heartbeat may say.
	if _, err := events.Encode(a.heartbeat(events.StateUp, time.Unix(0, 0))); err != nil {
		return nil, fmt.Errorf("configure server: %w", err)
	}
	return a, nil
}

// Run sends heartbeats and follows the fleet until ctx ends; its last word is a heartbeat
// that the server has left, which goes out when the caller drains the connection. It is
// called once. A fault of NATS is waited out: Run returns nil, and only when ctx has ended.
//
// The middleware goes on after Run has returned, for requests that are still in progress.
func (a *Agent) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, run := range []func(context.Context){a.beat, a.listen, a.keys.run, a.followView, a.endReleased} {
		g.Go(func() error { run(ctx); return nil })
	}
	err := g.Wait()
	a.send(context.WithoutCancel(ctx), a.heartbeat(events.StateLeft, time.Now()))
	return err
}

// drain is an announced drain: until is zero for the registry's default.
type drain struct{ until time.Time }

// Drain announces that the server wants to give its sessions away: each moves at its next
// safe point, all of them after so long, and no new ones come. 0: after what the registry
// allows by default, 10 min. Requests are served as before. It does not wait; a second call
// changes nothing.
func (a *Agent) Drain(after time.Duration) {
	d := new(drain)
	if after > 0 {
		d.until = time.Now().Add(after).UTC()
	}
	if a.drain.CompareAndSwap(nil, d) {
		a.announce <- struct{}{}
	}
}

// Ready returns nil once the server accepts requests; before, the error says what it waits
// for.
func (a *Agent) Ready() error {
	if !a.current.Load() {
		return errors.New("the released locks of the last minutes are not read yet")
	}
	return nil
}
