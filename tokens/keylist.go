package tokens

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// KeyInfo is a key as a token service knows it.
type KeyInfo struct {
	KID    string   `json:"kid"`
	Region string   `json:"region"`
	State  KeyState `json:"state"`
	// Since is when it came to its state.
	Since time.Time `json:"since,omitzero"`
	// SignsUntil is when another key took over, VerifiesUntil when nothing it signed is good any
	// more; zero: open.
	SignsUntil    time.Time `json:"signs_until,omitzero"`
	VerifiesUntil time.Time `json:"verifies_until,omitzero"`
	// KnownBy are the other regions that know of it as it is, MissingIn those that have not said
	// so; of the own region's keys only.
	KnownBy   []string `json:"known_by,omitempty"`
	MissingIn []string `json:"missing_in,omitempty"`
}

// KeysReply answers the methods for operators.
type KeysReply struct {
	// Region is the region asked.
	Region string `json:"region"`
	// Signing is the key that signs, empty if none does.
	Signing string `json:"signing,omitempty"`
	// KID is the key that the request was about; of a rotation, the new one.
	KID string `json:"kid,omitempty"`
	// Waiting says what the rotation under way waits for; nil: none is.
	Waiting *KeyWait  `json:"waiting,omitempty"`
	Keys    []KeyInfo `json:"keys"`
	// Warnings are for people.
	Warnings []string `json:"warnings,omitempty"`
}

// list returns all keys that are known, the own region's with what other regions know of them.
func (p *publicKeys) list(ctx context.Context, about string) KeysReply {
	now, own := time.Now(), p.own()
	edges, _ := p.edges()
	var kids []string
	for kid := range own {
		if own.verifies(kid, now) {
			kids = append(kids, kid)
		}
	}
	p.lacking(ctx, edges, kids, revokedKeys(own)) // what they said is noted
	return p.heardList(about, edges)
}

// heardList is list by what the other regions have said so far.
func (p *publicKeys) heardList(about string, edges []string) KeysReply {
	now := time.Now()
	known, own := p.known.Load(), p.own()
	r := KeysReply{Region: p.cfg.Region, Signing: own.signing(now), KID: about, Keys: []KeyInfo{}}
	for region, line := range known.lines {
		for kid := range line {
			i := KeyInfo{
				KID: kid, Region: region, State: line.state(kid, now), Since: line.since(kid, now),
				SignsUntil: line.signsUntil(kid), VerifiesUntil: line.verifiesUntil(kid),
			}
			if region == p.cfg.Region && i.State != KeyGone {
				for _, edge := range edges {
					if i.State == KeyRevoked && p.heard(edge, nil, []string{kid}) || i.State != KeyRevoked && p.heard(edge, []string{kid}, nil) {
						i.KnownBy = append(i.KnownBy, edge)
					} else {
						i.MissingIn = append(i.MissingIn, edge)
					}
				}
			}
			r.Keys = append(r.Keys, i)
		}
	}
	slices.SortFunc(r.Keys, r.order)
	if r.Waiting = p.waiting.Load(); r.Waiting == nil {
		if kid := own.pending(now); kid != "" {
			r.Waiting = &KeyWait{KID: kid, Since: own[kid].Wanted}
		}
	}
	return r
}

// order sorts the own region's keys first, and of each region those with the latest news; when one
// takes over from another, both have some.
func (r *KeysReply) order(a, b KeyInfo) int {
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		default:
			return 1
		}
	}
	return cmp.Or(
		first(a.Region == r.Region, b.Region == r.Region), cmp.Compare(a.Region, b.Region),
		b.Since.Compare(a.Since), first(a.State == KeySigning, b.State == KeySigning), cmp.Compare(a.KID, b.KID),
	)
}
