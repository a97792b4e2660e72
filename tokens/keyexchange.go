package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// Times of the exchange of keys with other regions.
const (
	keyExchange     = 30 * time.Second
	keyRetry        = time.Second
	keyAskTimeout   = 2 * time.Second
	unknownKeyPause = time.Second
)

func (p *publicKeys) ready() error {
	if !p.published.Load() {
		return errors.New("the signing key is not published yet")
	}
	_, err := p.signing(time.Now())
	return err
}

// run publishes the own keys, follows the bucket and asks the other regions, until ctx ends.
func (p *publicKeys) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := p.cfg.Keyshare.Watch(ctx, func(documents map[string][]byte, complete bool) { p.take(ctx, documents, complete) })
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch public keys: %w", err)
	})
	g.Go(func() error { p.exchange(ctx); return nil })
	return g.Wait()
}

// exchange does each second what is to be done about keys: those of regions of which nothing is
// known yet are asked for, all of them every keyExchange.
func (p *publicKeys) exchange(ctx context.Context) {
	tick := time.NewTicker(keyRetry)
	defer tick.Stop()
	var asked time.Time
	for {
		now := time.Now()
		all := now.Sub(asked) >= keyExchange
		p.reload(ctx)
		p.held(now)
		p.publish(ctx)
		if p.askView(ctx, all) && all {
			asked = now
		}
		p.rotate(ctx)
		p.tellRevoked(ctx, p.own())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.kick:
		}
	}
}

// reloader is a signer whose keys may change beneath it, and which may fail to follow.
type reloader interface{ Reload() error }

// reload has the signer look for keys, and tells once of each fault.
func (p *publicKeys) reload(ctx context.Context) {
	r, ok := (*p.signer.Load()).(reloader)
	if !ok {
		return
	}
	fault := ""
	if err := r.Reload(); err != nil {
		fault = err.Error()
	}
	p.mu.Lock()
	news := fault != p.fault
	p.fault = fault
	p.mu.Unlock()
	if news && fault != "" {
		p.log.LogAttrs(ctx, slog.LevelError, "private keys cannot be read; those of before remain in use", slog.String("error", fault))
	}
}

// publish stores what the bucket lacks: the own keys, and what became of keys by and by.
func (p *publicKeys) publish(ctx context.Context) {
	if !p.known.Load().complete {
		return
	}
	err := p.store(ctx, "")
	if err == nil {
		err = p.begin(ctx)
	}
	if err != nil && ctx.Err() == nil {
		p.log.LogAttrs(ctx, slog.LevelWarn, "public keys not published", slog.String("error", err.Error()))
	}
	p.published.Store(err == nil)
}

// begin gives the word to a region's very first key, at once (V18): nobody else could sign.
func (p *publicKeys) begin(ctx context.Context) error {
	if p.own().begun() {
		return nil
	}
	kid := (*p.signer.Load()).Signing()
	if !p.known.Load().holds[kid] {
		return fmt.Errorf("there is no key to sign with: %s holds none", place(*p.signer.Load()))
	}
	return p.change(ctx, kid, func(life *api.KeyLife) {
		if life.Signs.IsZero() {
			life.Signs = moment(time.Now())
		}
	})
}

// askView asks other regions of the view for their keys: all of them, or those of which no
// key is known. It reports whether there is a view and every region that was asked answered.
func (p *publicKeys) askView(ctx context.Context, all bool) bool {
	view := p.cfg.View()
	if view == nil {
		return false
	}
	var silent atomic.Bool
	var wg sync.WaitGroup
	for _, r := range view.Regions {
		if r.Name == p.cfg.Region || (!all && p.knows(r.Name)) {
			continue
		}
		wg.Go(func() {
			if p.askRegion(ctx, r.Name) != nil {
				silent.Store(true)
			}
		})
	}
	wg.Wait()
	return !silent.Load()
}

// knows reports whether any key of a region is known.
func (p *publicKeys) knows(region string) bool { return len(p.known.Load().lines[region]) > 0 }

// askRegion asks one region for its keys and stores what is new here.
func (p *publicKeys) askRegion(ctx context.Context, region string) error {
	_, err, _ := p.ask.Do(region, func() (any, error) {
		ask, cancel := context.WithTimeout(ctx, keyAskTimeout)
		defer cancel()
		header, document, err := p.cfg.Caller.Call(ask, keySubject(region, api.MethodJWKS), http.Header{}, nil)
		if err != nil {
			return nil, fmt.Errorf("ask region %s for its keys: %w", region, err)
		}
		if status := http.Header(header).Get(api.HeaderStatus); status != strconv.Itoa(http.StatusOK) {
			return nil, fmt.Errorf("ask region %s for its keys: status %q", region, status)
		}
		if _, err := p.learn(document, region, "", time.Now()); err != nil {
			return nil, fmt.Errorf("keys of region %s: %w", region, err)
		}
		return nil, p.store(ctx, region)
	})
	return err
}

// keySubject is where a region's token services are asked about keys.
func keySubject(region, method string) string {
	return events.Subject{
		Kind: events.KindRPC, Service: "tokens", Jurisdiction: events.GlobalJurisdiction, Region: region, Method: method,
	}.String()
}

// fetch asks the region that an unknown key id names, at most once a second. It reports
// whether the key is known now.
func (p *publicKeys) fetch(ctx context.Context, kid string, now time.Time) bool {
	p.refetch(ctx, keyRegion(kid), now)
	_, known := p.key(kid)
	return known
}

// refetch asks a region of the view for its keys, at most once a second. It reports whether it did.
func (p *publicKeys) refetch(ctx context.Context, region string, now time.Time) bool {
	if region == p.cfg.Region || !events.ValidToken(region) || !p.inView(region) {
		return false
	}
	p.mu.Lock()
	pause := now.Sub(p.asked[region]) < unknownKeyPause
	if !pause {
		p.asked[region] = now
	}
	p.mu.Unlock()
	if !pause {
		// The answer is for all who wait, so the end of the first one's request does not end it.
		_ = p.askRegion(context.WithoutCancel(ctx), region) // what matters is what is known afterwards
	}
	return !pause
}

// inView bounds what a forged key id can make this service ask for.
func (p *publicKeys) inView(region string) bool {
	view := p.cfg.View()
	if view == nil {
		return false
	}
	_, ok := view.Region(region)
	return ok
}
