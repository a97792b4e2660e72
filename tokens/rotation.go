package tokens

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// Peers asks all token services of a region at once.
//
// Gather returns what those answered who did so before ctx ended; it waits for that, for nobody
// knows how many there are. It never repeats a request, and is safe for concurrent use.
type Peers interface {
	Gather(ctx context.Context, subject string, data []byte) ([][]byte, error)
}

// Times of a rotation.
const (
	// gatherTime is how long the region's token services have to say which keys they hold.
	gatherTime = 500 * time.Millisecond
	// signNotice is how long before it signs a key is given the word, so that all have heard it.
	signNotice = 2 * time.Second
	// waitWarning is how often a rotation that waits is told of in the log.
	waitWarning = time.Minute
)

// KeyWait says what a rotation waits for. Until it ends the old key signs on.
type KeyWait struct {
	// KID is the key that is to sign, Since when that was asked for.
	KID   string    `json:"kid"`
	Since time.Time `json:"since"`
	// Regions have not reported the key, Services do not hold its private half.
	Regions  []string `json:"regions,omitempty"`
	Services []string `json:"services,omitempty"`
	// Fault is why that could not be found out.
	Fault string `json:"fault,omitempty"`
}

// String says it in words.
func (w *KeyWait) String() string {
	var parts []string
	if len(w.Regions) > 0 {
		parts = append(parts, "not reported yet by "+strings.Join(w.Regions, ", "))
	}
	if len(w.Services) > 0 {
		parts = append(parts, "its private half is not held yet by "+strings.Join(w.Services, ", ")+" (copy the key file there)")
	}
	if w.Fault != "" {
		parts = append(parts, w.Fault)
	}
	if len(parts) == 0 {
		return "about to sign"
	}
	return strings.Join(parts, "; ")
}

// edgeWord is what another region said that it knows of this one's keys.
type edgeWord struct {
	known, revoked []string
}

// rotate takes a rotation one step further, if one is wanted. Every token service of the region
// does so, each second, by what stands in the bucket: it needs none in particular, nor who asked.
// The one write that gives a key the word is a compare-and-swap.
func (p *publicKeys) rotate(ctx context.Context) {
	now := time.Now()
	line := p.own()
	if !p.known.Load().complete || !line.begun() {
		return
	}
	kid := line.pending(now)
	urgent := line.signing(now) == ""
	if urgent {
		kid = p.heir(line, kid, now)
	}
	if kid == "" {
		p.waiting.Store(nil)
		return
	}
	wait := &KeyWait{KID: kid, Since: line[kid].Wanted}
	if wait.Since.IsZero() { // nobody asked for it, but no other signs
		wait.Since = now
	}
	if !urgent {
		p.obstacles(ctx, wait)
	}
	if len(wait.Regions) > 0 || len(wait.Services) > 0 || wait.Fault != "" {
		p.waiting.Store(wait)
		p.warn(ctx, wait)
		return
	}
	given, err := p.giveWord(ctx, kid, urgent)
	if err != nil {
		wait.Fault = "it could not be given the word: " + err.Error()
		p.waiting.Store(wait)
		p.warn(ctx, wait)
		return
	}
	p.waiting.Store(nil)
	if given { // and not by another service of the region
		p.log.LogAttrs(ctx, slog.LevelInfo, "a new key signs", slog.String("kid", kid), slog.Bool("at_once", urgent))
	}
}

// giveWord has a key sign: in a moment, so that all have heard it, or at once where no key signs,
// for then, as with a region's first key, there is nothing to wait for. given says that it was this
// call that did so.
func (p *publicKeys) giveWord(ctx context.Context, kid string, urgent bool) (given bool, err error) {
	err = p.change(ctx, kid, func(life *api.KeyLife) {
		if given = life.Signs.IsZero() && life.Revoked.IsZero(); !given {
			return
		}
		at := time.Now()
		if !urgent {
			at = at.Add(signNotice)
		}
		life.Signs = moment(at)
	})
	return given, err
}

// heir returns the key to sign where none does: the wanted one if it is held here, else the
// newest that is held and never signed. A key that is about to sign is waited for.
func (p *publicKeys) heir(line keyLine, wanted string, now time.Time) string {
	if line.coming(now) != "" {
		return ""
	}
	held := p.known.Load().holds
	if held[wanted] {
		return wanted
	}
	best := ""
	for kid := range held {
		life := line[kid]
		if !life.Signs.IsZero() || !life.Revoked.IsZero() || life.Published.IsZero() {
			continue
		}
		if best == "" || line[best].Published.Before(life.Published) || line[best].Published.Equal(life.Published) && kid < best {
			best = kid
		}
	}
	return best
}

// warn tells of a rotation that waits, at once and then each minute.
func (p *publicKeys) warn(ctx context.Context, wait *KeyWait) {
	now := time.Now()
	p.mu.Lock()
	due := now.Sub(p.warned) >= waitWarning
	if due {
		p.warned = now
	}
	p.mu.Unlock()
	if due {
		p.log.LogAttrs(ctx, slog.LevelWarn, "a new key waits before it signs; the old one signs on",
			slog.String("kid", wait.KID), slog.Time("since", wait.Since), slog.String("waits_for", wait.String()))
	}
}

// obstacles finds out who does not know a key yet: of the region's token services its private
// half, of the other regions its public one.
func (p *publicKeys) obstacles(ctx context.Context, wait *KeyWait) {
	holders, err := p.holders(ctx)
	if err != nil {
		wait.Fault = err.Error()
		return
	}
	signing, able := p.own().signing(time.Now()), false
	for _, h := range holders {
		able = able || slices.Contains(h.KIDs, signing)
		if !slices.Contains(h.KIDs, wait.KID) {
			wait.Services = append(wait.Services, h.Service)
		}
	}
	if !able { // the signing key is lost: nothing could be signed while other regions are waited for
		return
	}
	edges, ok := p.edges()
	if !ok {
		wait.Fault = "the other regions are not known yet"
		return
	}
	wait.Regions = p.lacking(ctx, edges, []string{wait.KID}, nil)
}

// edges returns the regions that have to know a key before it signs, and whether they are known.
func (p *publicKeys) edges() ([]string, bool) {
	var edges []string
	if p.cfg.Edges != nil {
		edges = slices.Clone(p.cfg.Edges())
	} else {
		view := p.cfg.View()
		if view == nil {
			return nil, false
		}
		for _, r := range view.Regions {
			edges = append(edges, r.Name)
		}
	}
	return slices.DeleteFunc(edges, func(r string) bool { return r == p.cfg.Region }), true
}

// lacking asks those of the regions that have not said yet that they know the keys, and know of
// the revoked ones that they are, and returns those that still have not.
func (p *publicKeys) lacking(ctx context.Context, edges, kids, revoked []string) []string {
	var list []string
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, edge := range edges {
		if p.heard(edge, kids, revoked) {
			continue
		}
		wg.Go(func() {
			word, err := p.askEdge(ctx, edge, kids, revoked)
			p.mu.Lock()
			if err == nil {
				old := p.words[edge]
				p.words[edge] = edgeWord{union(old.known, word.known), union(old.revoked, word.revoked)}
			}
			p.mu.Unlock()
			if !p.heard(edge, kids, revoked) {
				mu.Lock()
				list = append(list, edge)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(list)
	return list
}

// heard reports whether a region has said that it knows the keys, and those that are revoked.
func (p *publicKeys) heard(edge string, kids, revoked []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	word := p.words[edge]
	return containsAll(word.known, kids) && containsAll(word.revoked, revoked)
}

// union returns what stands in either list, in order.
func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func containsAll(have, want []string) bool {
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// askEdge asks a region which of the keys it knows, and which it knows to be revoked.
func (p *publicKeys) askEdge(ctx context.Context, edge string, kids, revoked []string) (edgeWord, error) {
	ctx, cancel := context.WithTimeout(ctx, keyAskTimeout)
	defer cancel()
	data, err := json.Marshal(keysKnown{Region: p.cfg.Region, Known: kids, Revoked: revoked})
	if err != nil {
		return edgeWord{}, err
	}
	_, answer, err := p.cfg.Caller.Call(ctx, keySubject(edge, MethodKeysKnown), nil, data)
	if err != nil {
		return edgeWord{}, fmt.Errorf("ask region %s: %w", edge, err)
	}
	var known keysKnown
	if err := json.Unmarshal(answer, &known); err != nil {
		return edgeWord{}, fmt.Errorf("ask region %s: %w", edge, err)
	}
	return edgeWord{known: known.Known, revoked: known.Revoked}, nil
}

// revokedKeys returns the region's revoked keys, in order.
func revokedKeys(line keyLine) []string {
	var revoked []string
	for kid, life := range line {
		if !life.Revoked.IsZero() {
			revoked = append(revoked, kid)
		}
	}
	slices.Sort(revoked)
	return revoked
}

// tellRevoked has the other regions hear of revoked keys, until each has said that it did.
func (p *publicKeys) tellRevoked(ctx context.Context, line keyLine) []string {
	revoked := revokedKeys(line)
	edges, ok := p.edges()
	if len(revoked) == 0 || !ok {
		return nil
	}
	return p.lacking(ctx, edges, nil, revoked)
}

// keyHolder says which private keys a token service holds.
type keyHolder struct {
	// Service names the process and where its keys are.
	Service string   `json:"service"`
	KIDs    []string `json:"kids"`
}

// holder returns what this service holds.
func (p *publicKeys) holder() keyHolder {
	signer := *p.signer.Load()
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	h := keyHolder{Service: fmt.Sprintf("%s, process %d, %s", host, os.Getpid(), place(signer))}
	for kid := range signer.Public() {
		h.KIDs = append(h.KIDs, kid)
	}
	slices.Sort(h.KIDs)
	return h
}

// holders returns what the region's token services hold that answer now.
func (p *publicKeys) holders(ctx context.Context) ([]keyHolder, error) {
	list := []keyHolder{p.holder()}
	if p.cfg.Peers == nil {
		return list, nil
	}
	ctx, cancel := context.WithTimeout(ctx, gatherTime)
	defer cancel()
	answers, err := p.cfg.Peers.Gather(ctx, keySubject(p.cfg.Region, MethodKeysHeld), nil)
	if err != nil {
		return nil, fmt.Errorf("the region's token services could not be asked: %w", err)
	}
	for _, data := range answers {
		var h keyHolder
		if json.Unmarshal(data, &h) != nil {
			h = keyHolder{Service: "a service of another version"}
		}
		list = append(list, h)
	}
	return list, nil
}
