// Package tokens decides who gets which token: it starts sessions, redeems refresh tokens,
// places each session on a server by placement.Decide, and tells the client where it is.
//
// A Service serves one region. It owns the sessions that the region created, and passes
// requests for others on to the region that their token names. HTTP and NATS reach the same
// handlers.
package tokens

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// Bounds of the tokens' lives.
const (
	MinAccessTTL  = time.Minute
	MaxAccessTTL  = 5 * time.Minute
	MinRefreshTTL = 7 * 24 * time.Hour
	MaxRefreshTTL = 30 * 24 * time.Hour
	// SessionTTL is the absolute limit of a session's life.
	SessionTTL = 30 * 24 * time.Hour
)

// cachedSessions is the default of Config.Cached.
const cachedSessions = 1 << 17

// Deadline is how long a request may take, over all hops.
const Deadline = 10 * time.Second

// Config is what a Service needs. Fields without a stated zero value are required.
type Config struct {
	// Region is the region that this service serves.
	Region string
	// Instance names this service among those of the region, so that a session's refreshes can
	// come to one of them. Empty: they come to any.
	Instance string
	// Issuer is the claim iss of every token, the same in all regions: the global URL.
	Issuer string
	// Audience is the claim aud. Empty: the issuer.
	Audience string
	// AccessTTL is 1 to 5 min; 0: 2 min. RefreshTTL is 7 to 30 days; 0: 14 days.
	AccessTTL, RefreshTTL time.Duration
	// Keys are the region's private keys: a KeyFile, a Keyring, or a KMS.
	Keys Signer
	// Users is the users file. nil: /v1/login knows nobody.
	Users *Users
	// Policies say how sessions are placed. nil: the default policy places all.
	Policies Policies
	// TrustLocation honours the header X-Berth-Client-Location, which anybody can write:
	// for development behind a front that plays the geo-DNS.
	TrustLocation bool
	// GeoIP says where clients are that do not say so. nil: nobody does.
	GeoIP Locator
	// TrustedProxies are the networks of load balancers, whose word in X-Forwarded-For for whom they ask is
	// believed. nil: a client's address is that of the connection's other end.
	TrustedProxies []netip.Prefix

	// View returns the newest view of the active servers, nil before the first.
	View func() *registry.View
	// Stale reports whether the view is too old to move sessions by: they stay then, unless
	// their server fails a probe. nil: it never is.
	Stale func() bool
	// Clock says why this machine's clock cannot be trusted, nil if it can. While it cannot, no
	// session is begun or refreshed, nor a token refused for good: by a clock far enough from
	// another service's an honest client is a thief. nil: it always can.
	Clock func() error
	// Store holds the region's sessions.
	Store sessions.Store
	// Cached is how many sessions are remembered, so that their next refresh needs no read. 0:
	// 131 072, of some 1.5 KB each; negative: none.
	Cached int
	// Ledger lists them, for operators and for what a former life has left unsettled.
	Ledger Ledger
	// Copies are other regions' records of sessions. nil: there are none, and no session of a
	// region that is out of reach is taken over.
	Copies sessions.Copies
	// Arrivals tells of copies as they come. nil: they are folded when their session is asked for,
	// and if there are Copies no session is remembered.
	Arrivals Arrivals
	// Orgs gives organizations by name. nil: nothing is set of any.
	Orgs Orgs
	// Jurisdictions are the named sets of regions; nil: only the global one is known.
	Jurisdictions residency.Jurisdictions
	// Complete returns an error while copies of other regions' sessions are known to be missing (V17).
	// nil: none ever are.
	Complete func() error
	// CaughtUp reports the same of one region, also where its copies cannot be asked for; for strict
	// sessions it counts of each region whose view updates are heard. nil: none is missing.
	CaughtUp func(region string) bool
	// Bus carries events, Caller requests to other regions' token services.
	Bus    Bus
	Caller Caller
	// Recent reads what the region has published.
	Recent Recent
	// Keyshare publishes the public keys and brings those of others.
	Keyshare KeyBucket
	// Peers asks the region's token services which private keys they hold. nil: there is no other.
	Peers Peers
	// Edges returns the regions that have to know a new key before it signs, those that copies of
	// sessions flow to. nil: every other region of the view, and none is taken over from.
	Edges func() []string
	// Prober asks a server whether it is alive.
	Prober Prober
	// Log takes what an operator should know. nil: discarded.
	Log *slog.Logger
	// Metrics registers the service's metrics. nil: not registered.
	Metrics prometheus.Registerer
}

// Bus carries events between services. Publish returns once NATS has the event (stored,
// where a stream of the own region binds its subject). Subscribe calls fn for each message
// from now on, one at a time, until stop; fn must not block; messages may be lost while the
// connection is away. Both are safe for concurrent use.
type Bus interface {
	Publish(ctx context.Context, subject string, data []byte) error
	Subscribe(ctx context.Context, subject string, fn func(subject string, data []byte)) (stop func(), err error)
}

// Arrivals hands over other regions' records as they arrive. Follow calls reading, from the same
// goroutine: with on when whatever arrives from then on is handed over, where missed says that some
// before may not have been, also at the start; without on when copies may come late until the next
// call. All hands over all that are there. Both end with ctx.
type Arrivals interface {
	Follow(ctx context.Context, fn func(key sessions.Key, region string, rec sessions.Record), reading func(on, missed bool)) error
	All(ctx context.Context, fn func(key sessions.Key, region string, rec sessions.Record)) error
}

// Locator says where a network address is, roughly; false: that is not known. It answers from memory, for it is asked at
// each login and refresh, and is safe for concurrent use. Nothing that has to hold rests on it.
type Locator interface {
	Locate(address netip.Addr) (events.Location, bool)
}

// Orgs gives what holds for an organization, from memory. An error means that this is not known: then
// the strictest is assumed. It is safe for concurrent use.
type Orgs interface {
	Org(name string) (residency.Org, error)
}

// Beginner is a Bus to which several events can be handed before the first is stored. Begin hands
// one over and returns at once; wait, which has to be called, returns what Publish would, but
// nothing is sent twice.
type Beginner interface {
	Bus
	Begin(subject string, data []byte) (wait func(ctx context.Context) error, err error)
}

// Caller sends a request to a service and waits for its one reply, until ctx ends. It never
// repeats a request; an error leaves open whether the service did what was asked.
type Caller interface {
	Call(ctx context.Context, subject string, header map[string][]string, data []byte) (map[string][]string, []byte, error)
}

// Prober asks a server's health URL once, for at most the time ctx gives; nil means that it
// answered well.
type Prober interface {
	Probe(ctx context.Context, healthURL string) error
}

// Service is a region's token service. It is safe for concurrent use.
type Service struct {
	cfg     Config
	mint    mint
	verify  api.Verifier
	owner   *sessions.Owner
	cache   *sessions.Cache
	public  *publicKeys
	reports *reports
	logins  *loginLimit
	stays   *sampler
	outbox  *outbox
	// recording has the views recorded that decisions name.
	recording *recording
	sweeper   *sweeper
	sight     *sight
	// leftovers finds for the sweeper what it was not told of.
	leftovers *leftovers
	// retelling tells a region that is back of revocations.
	retelling *retelling
	// strictness is the lease by which strict sessions are answered and taken over.
	strictness *strictness
	// outlook is what decisions go by besides the view: market finds the prices of regions, moves counts
	// who is on the way. demand counts who is served here, name is this service's own.
	outlook *outlook
	market  *market
	moves   *moves
	demand  *demand
	name    string
	// revoking is held by the one request that ends many sessions.
	revoking chan struct{}
	metrics  *metrics
	faults   *storeFaults
	log      *slog.Logger
	handler  http.Handler
	rooms    sync.Pool // of *room
}

// withDefaults fills in the zero values.
func (c Config) withDefaults() Config {
	c.AccessTTL = cmp.Or(c.AccessTTL, 2*time.Minute)
	c.RefreshTTL = cmp.Or(c.RefreshTTL, 14*24*time.Hour)
	c.Audience = cmp.Or(c.Audience, c.Issuer)
	c.Cached = cmp.Or(c.Cached, cachedSessions)
	if c.Stale == nil {
		c.Stale = func() bool { return false }
	}
	if c.Clock == nil {
		c.Clock = func() error { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns the first fault of what an operator configures; what the program wires
// (View and the fields below it) may still be missing.
func (c Config) Validate() error {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return fmt.Errorf("configure tokens: %w", err)
	}
	return nil
}

func (c *Config) validate() error {
	switch {
	case !events.ValidToken(c.Region):
		return fmt.Errorf("region %q: want 1 to %d of a-z 0-9 - _", c.Region, events.MaxToken)
	case c.Instance != "" && !events.ValidToken(c.Instance):
		return fmt.Errorf("instance %q: want 1 to %d of a-z 0-9 - _", c.Instance, events.MaxToken)
	case !isBaseURL(c.Issuer):
		return fmt.Errorf("issuer %q: want an http or https URL without query and fragment", c.Issuer)
	case c.AccessTTL < MinAccessTTL || c.AccessTTL > MaxAccessTTL:
		return fmt.Errorf("access TTL %s: want %s to %s", c.AccessTTL, MinAccessTTL, MaxAccessTTL)
	case c.RefreshTTL < MinRefreshTTL || c.RefreshTTL > MaxRefreshTTL:
		return fmt.Errorf("refresh TTL %s: want %s to %s (7 to 30 days)", c.RefreshTTL, MinRefreshTTL, MaxRefreshTTL)
	case c.Keys == nil:
		return errors.New("no signing keys")
	}
	return nil
}

// Policies give the policy that places a session. It is safe for concurrent use.
type Policies interface {
	For(session string) placement.Policy
}

func (s *Service) policy(session string) placement.Policy {
	if s.cfg.Policies == nil {
		return placement.Policy{}
	}
	return s.cfg.Policies.For(session)
}

// isBaseURL reports whether paths can be put behind s: the metadata of RFC 8414 do so with the
// issuer.
func isBaseURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && !strings.ContainsAny(s, "?#")
}

// New returns a service, or the first fault of its configuration. It does no I/O.
func New(c Config) (*Service, error) {
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.View == nil || c.Store == nil || c.Ledger == nil || c.Bus == nil || c.Caller == nil || c.Recent == nil || c.Keyshare == nil || c.Prober == nil {
		return nil, errors.New("configure tokens: view, store, ledger, bus, caller, recent, keyshare and prober are required")
	}
	s := &Service{
		cfg: c, log: c.Log, mint: newMint(c.Issuer, c.Audience),
		reports: newReports(), logins: newLoginLimit(), stays: newSampler(), metrics: newMetrics(c.Metrics),
		revoking: make(chan struct{}, 1),
	}
	s.faults = newStoreFaults(s.log, c.Metrics)
	s.outbox = newOutbox(c.Bus, s.log, s.metrics.lostEvents)
	s.recording = newRecording(c.Region, s.outbox)
	s.public = newPublicKeys(&c, s.log)
	s.SetKeys(c.Keys)
	s.metrics.keys(c.Metrics, s.public)
	s.verify = api.Verifier{Key: s.public.key, Retired: s.public.retired, Issuer: c.Issuer, Audience: c.Audience}
	s.sweeper, s.leftovers = newSweeper(s), newLeftovers(s)
	s.sight, s.retelling = newSight(time.Now()), newRetelling(s)
	s.strictness = newStrictness(&c)
	s.outlook, s.moves, s.demand, s.name = new(outlook), newMoves(), newDemand(c.AccessTTL, time.Now()), newID()
	s.market = newMarket(&c, s.outlook)
	var err error
	if c.Cached > 0 {
		s.cache = sessions.NewCache(c.Cached)
	}
	if c.Copies != nil {
		s.cache.Suspend() // until they are followed
	}
	s.owner, err = sessions.NewOwner(sessions.Config{
		Region: c.Region, Store: c.Store, Cache: s.cache, Now: time.Now, NewOp: newOps(), Copies: c.Copies, Peers: peers{s},
		Wait: wait, Edge: s.edge, Unsettled: func(key sessions.Key) { s.sweeper.add(key) }, Yielded: s.yielded, Unheard: s.releaseAgain,
	})
	if err != nil {
		return nil, fmt.Errorf("configure tokens: %w", err)
	}
	s.handler = s.routes()
	return s, nil
}

// SetKeys replaces the private keys. Which of them signs the region's bucket says.
func (s *Service) SetKeys(keys Signer) { s.public.setOwn(keys) }

// Run publishes events and the region's keys, learns the keys of the others, hears the clients'
// reports that other services of the region took, settles what handovers have left, and tells a
// region that is back of recent revocations, until ctx ends. End it after all
// that serves requests: what they left to publish goes out before Run returns.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.hearReports(ctx); return nil })
	g.Go(func() error { s.hearViews(ctx); return nil })
	g.Go(func() error { s.hearRevoked(ctx); return nil })
	g.Go(func() error { s.keepContact(ctx); return nil })
	g.Go(func() error { s.tellDemand(ctx); return nil })
	g.Go(func() error { s.findPrices(ctx); return nil })
	g.Go(func() error { s.hearMoves(ctx); return nil })
	g.Go(func() error { s.addMoves(ctx); return nil })
	g.Go(func() error { s.sweeper.run(ctx); return nil })
	g.Go(func() error { s.leftovers.run(ctx); return nil })
	g.Go(func() error { return s.followCopies(ctx) })
	g.Go(func() error { s.retelling.run(ctx); return nil })
	g.Go(func() error { return s.public.run(ctx) })
	g.Go(func() error { s.outbox.run(ctx); return nil })
	g.Go(func() error { s.recording.run(ctx); return nil })
	return g.Wait()
}

// Ready reports whether the service can answer: it has a view and its own key is published.
// The error says what is missing.
func (s *Service) Ready() error {
	if s.cfg.View() == nil {
		return errors.New("no view of the active servers yet")
	}
	return s.public.ready()
}

// newOps returns a source of names for writes, which no other service's are the same as.
func newOps() func() string {
	service := newID() + "-"
	var last atomic.Uint64
	return func() string { return service + strconv.FormatUint(last.Add(1), 36) }
}

// newID returns a fresh ULID in lower case, so that it can stand in subjects and keys.
func newID() string { return strings.ToLower(ulid.Make().String()) }
