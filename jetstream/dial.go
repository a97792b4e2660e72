package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/events"
)

// Config says which NATS to connect to, and as what.
type Config struct {
	// URL is where NATS listens; several, separated by commas, are nodes of one region. Empty: nats://127.0.0.1:4222.
	URL string
	// Credentials is the path of a credentials file. Empty: none is presented.
	Credentials string
	// Options are further options, such as those of a context of the nats CLI or nats.InProcessServer. They precede those
	// that this package sets.
	Options []nats.Option
	// Region is the region that this NATS has to be of: its JetStream domain. Empty: any.
	Region string
	// Jurisdiction names whose replies come here: the prefix of the inboxes for what is asked inside the region. Empty:
	// events.LocalJurisdiction, whose replies stay there. What other regions answer comes in the jurisdiction of the question.
	Jurisdiction string
	// Inbox sets this connection's inboxes apart, below those of the jurisdiction, so that the permissions of NATS can keep
	// others from what is answered here. Empty: the Server; where that is empty too, they are with those of the services.
	Inbox string
	// Role is what connects, such as "registry". It shows in the connection's name. Required.
	Role string
	// Server and Boot are those of a regional server's heartbeats, whose Role is RoleServer: by them the registry knows
	// whose connection has ended. Empty: it is none.
	Server, Boot string
	// Wait makes Dial try until NATS is there, as a service wants it. False: it tries once, as a command does.
	Wait bool
	// Log gets lost and restored connections, and each failed try of Dial. Nil: nothing is logged.
	Log *slog.Logger
}

// RoleServer is the role of a regional server.
const RoleServer = "server"

func (c *Config) validate() error {
	if c.Role == "" {
		return errors.New("no role")
	}
	for _, token := range []string{c.Region, c.Jurisdiction, c.Inbox} {
		if token != "" && !events.ValidToken(token) {
			return fmt.Errorf("%q: want 1 to %d of a-z 0-9 - _", token, events.MaxToken)
		}
	}
	if c.Credentials != "" {
		if _, err := os.Stat(c.Credentials); err != nil {
			return fmt.Errorf("read credentials: %w", err)
		}
	}
	return nil
}

// Timing of a connection.
const (
	// A client that returns late after a short cut loses heartbeats for as long, so it tries often; the jitter spreads the
	// clients of a restarted server.
	reconnectWait   = 50 * time.Millisecond
	reconnectJitter = 50 * time.Millisecond
	// A connection that went silent without being closed is given up after (pingsOut + 1) intervals.
	pingInterval = 2 * time.Second
	pingsOut     = 2
	dialTimeout  = 2 * time.Second
	// Dial waits between tries from the first to the last of these, doubling.
	firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
)

// errMisfit marks faults of the configuration, which no retry heals.
var errMisfit = errors.New("wrong NATS")

// Dial connects to a region's NATS and checks that it has JetStream in the domain of that region, for which the user needs
// to be allowed to ask $JS.API.INFO.
//
// With Config.Wait it tries, with one log line for each failure, until it succeeds or ctx ends; only a server of another
// region and a faulty Config end it early; the end of ctx is told by ctx's error. Without, the first failure is returned. A connection that breaks later comes
// back by itself; meanwhile nothing is buffered and publishing fails.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure NATS connection: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	where := cfg.where()
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		c, err := dialOnce(ctx, cfg)
		if err == nil {
			return c, nil
		}
		err = fmt.Errorf("connect to NATS at %s: %w", where, err)
		if !cfg.Wait || errors.Is(err, errMisfit) {
			return nil, err
		}
		pause := wait/2 + rand.N(wait/2)
		cfg.Log.LogAttrs(ctx, slog.LevelWarn, "nats is out of reach, will try again",
			slog.String("error", err.Error()), slog.Duration("retry_in", pause.Round(time.Millisecond)))
		if !sleep(ctx, pause) {
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// sleep waits for d and reports whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// where returns the URL without passwords, for messages.
func (c *Config) where() string {
	if c.URL == "" {
		return nats.DefaultURL
	}
	urls := strings.Split(c.URL, ",")
	for i, raw := range urls {
		if u, err := url.Parse(strings.TrimSpace(raw)); err == nil {
			urls[i] = u.Redacted()
		}
	}
	return strings.Join(urls, ",")
}

func dialOnce(ctx context.Context, cfg Config) (*Conn, error) {
	c := &Conn{
		log:        cfg.Log,
		closed:     make(chan struct{}),
		cameBack:   make(chan struct{}, 1),
		dropped:    make(chan struct{}, 1),
		reconnects: listeners{},
		gaps:       listeners{},
		consumers:  map[string]struct{}{},
	}
	target := cfg.URL
	if target == "" {
		target = nats.DefaultURL
	}
	var err error
	if c.nc, err = nats.Connect(target, c.options(cfg)...); err != nil {
		return nil, err
	}
	c.crossing = &crossing{nc: c.nc, own: cfg.ownInbox(), inboxes: map[string]*inbox{}}
	if err := c.check(ctx, cfg.Region); err != nil {
		c.nc.Close()
		return nil, err
	}
	if c.acks, err = newAcks(c.nc, c.region); err != nil {
		c.nc.Close()
		return nil, err
	}
	upkeep, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	c.upkeep.Go(func() { c.acks.outgoing.run(upkeep) })
	c.upkeep.Go(func() { c.keep(upkeep) })
	c.upkeep.Go(func() { c.tellOfDrops(upkeep) })
	return c, nil
}

// options returns those of cfg and, after them, ours.
func (c *Conn) options(cfg Config) []nats.Option {
	inbox := events.Inbox(cmp.Or(cfg.Jurisdiction, events.LocalJurisdiction))
	if own := cfg.ownInbox(); own != "" {
		inbox += "." + own
	}
	opts := []nats.Option{
		nats.Timeout(dialTimeout), nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(pingsOut),
		nats.FlusherTimeout(writeTimeout), // a server that reads no more would hold up all who publish for a minute
	}
	if cfg.Credentials != "" {
		opts = append(opts, nats.UserCredentials(cfg.Credentials))
	}
	opts = append(opts, cfg.Options...)
	return append(opts,
		nats.Name(cfg.clientName()),
		nats.CustomInboxPrefix(inbox),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		// A write kept for later would be applied after its caller has given up and judged anew.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(c.onDisconnect),
		nats.ReconnectHandler(c.onReconnect),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
		nats.ErrorHandler(c.onError),
	)
}

// ownInbox returns what sets the connection's inboxes apart, empty if nothing does.
func (c *Config) ownInbox() string {
	if own := cmp.Or(c.Inbox, c.Server); events.ValidToken(own) {
		return own
	}
	return ""
}

// clientName is what `nats server report connections` shows: berth/<role>/<region>/<server>/<boot>.
func (c *Config) clientName() string {
	return strings.TrimRight(strings.Join([]string{"berth", c.Role, c.Region, c.Server, c.Boot}, "/"), "/")
}

func (c *Conn) onDisconnect(nc *nats.Conn, err error) {
	if nc.IsClosed() || err == nil {
		return
	}
	c.log.LogAttrs(context.Background(), slog.LevelWarn, "connection to nats is lost", slog.String("error", err.Error()))
}

func (c *Conn) onReconnect(nc *nats.Conn) {
	c.log.LogAttrs(context.Background(), slog.LevelInfo, "connection to nats is restored", slog.String("url", nc.ConnectedUrlRedacted()))
	c.tell(c.reconnects, c.gaps)
	signal(c.cameBack)
}

func (c *Conn) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	attrs := []slog.Attr{slog.String("error", err.Error())}
	if sub != nil {
		attrs = append(attrs, slog.String("subject", sub.Subject))
	}
	c.log.LogAttrs(context.Background(), slog.LevelWarn, "nats reports an error", attrs...)
	if errors.Is(err, nats.ErrSlowConsumer) {
		signal(c.dropped)
	}
}

// check finds out the domain and compares it with the region that is wanted.
func (c *Conn) check(ctx context.Context, region string) error {
	js, err := natsjs.New(c.nc)
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	info, err := js.AccountInfo(ctx)
	switch {
	case errors.Is(err, natsjs.ErrJetStreamNotEnabled), errors.Is(err, natsjs.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return errors.New("it has no JetStream")
	case err != nil:
		return fmt.Errorf("ask for JetStream: %w", err)
	case region != "" && info.Domain != region:
		return fmt.Errorf("%w: its JetStream domain is %q, not the region %q", errMisfit, info.Domain, region)
	}
	c.js, c.region = js, info.Domain
	return nil
}
