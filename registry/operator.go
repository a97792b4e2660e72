package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
)

// Refusal is why an operator's wish was not noted.
type Refusal struct {
	// Code is a number in the manner of HTTP, Detail one line.
	Code   int
	Detail string
}

func (e *Refusal) Error() string { return e.Detail }

// Codes of a Refusal.
const (
	RefusedInvalid     = 400
	RefusedUnknown     = 404
	RefusedConflict    = 409
	RefusedUnavailable = 503
)

func refuse(code int, format string, args ...any) error {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// DrainRequest asks for the drain of a server or, without one, of the registry's region; or
// for the end of it.
type DrainRequest struct {
	Server string `json:"server,omitempty"`
	// Deadline is a duration such as 10m, after which sessions move regardless. Empty:
	// DefaultDrain. Undrain does not look at it.
	Deadline string `json:"deadline,omitempty"`
	// By is who asks, for the record.
	By string `json:"by,omitempty"`
}

// DrainReply says what is so now.
type DrainReply struct {
	Region string `json:"region"`
	Server string `json:"server,omitempty"`
	// Until is the deadline. Zero after an undrain.
	Until time.Time `json:"until,omitzero"`
	// Changed says that an undrain has ended a drain.
	Changed bool `json:"changed"`
	// Servers is how many servers it concerns, Sessions how many sessions are on them.
	Servers  int `json:"servers"`
	Sessions int `json:"sessions"`
	// Warnings are what an operator may not have thought of.
	Warnings []string `json:"warnings,omitempty"`
}

// RegionRequest changes what is set of the registry's region. Empty and nil: as it is.
type RegionRequest struct {
	Role   events.Role `json:"role,omitempty"`
	Weight *int        `json:"weight,omitempty"`
	By     string      `json:"by,omitempty"`
}

// RegionReply says how the region is set now.
type RegionReply struct {
	Region   string      `json:"region"`
	Role     events.Role `json:"role"`
	Weight   int         `json:"weight"`
	Warnings []string    `json:"warnings,omitempty"`
}

// Drain notes an operator's wish that sessions leave a server or the whole region. It is
// durable when Drain returns, and soon folded by every registry of the region. An error is a
// *Refusal.
func (r *Registry) Drain(ctx context.Context, q DrainRequest) (DrainReply, error) {
	deadline := DefaultDrain
	if q.Deadline != "" {
		var err error
		if deadline, err = time.ParseDuration(q.Deadline); err != nil {
			return DrainReply{}, refuse(RefusedInvalid, "deadline %q: want a duration such as 10m", q.Deadline)
		}
	}
	if deadline <= 0 || deadline > MaxDrain {
		return DrainReply{}, refuse(RefusedInvalid, "deadline %s: want more than 0 and at most %s", deadline, MaxDrain)
	}
	view, err := r.target(q)
	if err != nil {
		return DrainReply{}, err
	}
	now := time.Now()
	wish := Drain{Until: now.Add(deadline).UTC().Truncate(time.Millisecond), At: now.UTC(), By: q.By}
	_, err = r.wish(ctx, q.By, func(w *Wishes) error {
		if q.Server == "" {
			w.Region = &wish
			return nil
		}
		if _, again := w.Servers[q.Server]; !again && len(w.Servers) >= maxDrains {
			return refuse(RefusedConflict, "%d servers of %s are drained already: undrain some, or drain the region", maxDrains, r.cfg.Region)
		}
		w.Servers[q.Server] = wish
		return nil
	})
	if err != nil {
		return DrainReply{}, err
	}
	reply := DrainReply{Region: r.cfg.Region, Server: q.Server, Until: wish.Until, Changed: true}
	reply.concerns(view)
	reply.warn(view)
	return reply, nil
}

// Undrain takes that wish back. A server that announces its drain itself goes on draining. An
// error is a *Refusal.
func (r *Registry) Undrain(ctx context.Context, q DrainRequest) (DrainReply, error) {
	view, err := r.target(q)
	if err != nil {
		return DrainReply{}, err
	}
	reply := DrainReply{Region: r.cfg.Region, Server: q.Server}
	now, err := r.wish(ctx, q.By, func(w *Wishes) error {
		switch _, own := w.Servers[q.Server]; {
		case q.Server == "":
			reply.Changed = w.Region != nil
			w.Region = nil
		case own:
			reply.Changed = true
			delete(w.Servers, q.Server)
		case w.Region != nil:
			return refuse(RefusedConflict, "server %s drains with its region: undrain %s", q.Server, r.cfg.Region)
		default:
			reply.Changed = false
		}
		return nil
	})
	if err != nil {
		return DrainReply{}, err
	}
	reply.concerns(view)
	reply.remains(view, now)
	return reply, nil
}

// SetRegion changes the region's role and weight, as far as the request says. An error is a
// *Refusal.
func (r *Registry) SetRegion(ctx context.Context, q RegionRequest) (RegionReply, error) {
	if !q.Role.Valid() {
		return RegionReply{}, refuse(RefusedInvalid, "role %q: want %s or %s", q.Role, events.RoleActive, events.RoleStandby)
	}
	if w := events.WeightOf(q.Weight); w < 0 || w > events.FullWeight {
		return RegionReply{}, refuse(RefusedInvalid, "weight %d: want 0 to %d", w, events.FullWeight)
	}
	if _, err := r.target(DrainRequest{By: q.By}); err != nil {
		return RegionReply{}, err
	}
	now, err := r.wish(ctx, q.By, func(w *Wishes) error {
		switch q.Role {
		case events.RoleActive:
			w.Role = ""
		case events.RoleStandby:
			w.Role = q.Role
		}
		switch {
		case q.Weight == nil:
		case *q.Weight == events.FullWeight:
			w.Weight = nil
		default:
			w.Weight = q.Weight
		}
		return nil
	})
	if err != nil {
		return RegionReply{}, err
	}
	reply := RegionReply{Region: r.cfg.Region, Role: events.RoleActive, Weight: events.WeightOf(now.Weight)}
	if now.Role != "" {
		reply.Role = now.Role
	}
	reply.warn(r.View())
	return reply, nil
}

// target returns the view in which the request's server is, if it names one.
func (r *Registry) target(q DrainRequest) (*View, error) {
	view := r.View()
	switch {
	case r.cfg.Wishes == nil || view == nil:
		return nil, refuse(RefusedUnavailable, "the registry of %s is not ready", r.cfg.Region)
	case len(q.By) > maxBy:
		return nil, refuse(RefusedInvalid, "by: want at most %d bytes", maxBy)
	case q.Server == "":
		return view, nil
	}
	if s, ok := view.Server(q.Server); ok && s.Region == r.cfg.Region {
		return view, nil
	}
	var ids []string
	for i := range view.Servers {
		if view.Servers[i].Region == r.cfg.Region {
			ids = append(ids, view.Servers[i].Server)
		}
	}
	return nil, refuse(RefusedUnknown, "region %s has no server %q%s", r.cfg.Region, q.Server, Suggest(q.Server, ids))
}

// wishTries bounds how often a write that others came before is tried again.
const wishTries = 8

// wish changes what is wanted by compare-and-swap.
func (r *Registry) wish(ctx context.Context, by string, change func(*Wishes) error) (*Wishes, error) {
	for range wishTries {
		before, err := r.wishes(ctx)
		if err != nil {
			return nil, refuse(RefusedUnavailable, "%v", err)
		}
		after := before.Wishes.changed(by, time.Now())
		if err := change(after); err != nil {
			return nil, err
		}
		value, err := json.Marshal(after)
		if err != nil {
			return nil, refuse(RefusedInvalid, "encode wishes: %v", err)
		}
		switch _, err = r.cfg.Wishes.Put(ctx, value, before.Revision); {
		case err == nil:
			return after, nil
		case !errors.Is(err, ErrFenced):
			return nil, refuse(RefusedUnavailable, "it is not known whether this was noted: %v", err)
		}
	}
	return nil, refuse(RefusedConflict, "others change the same all the time; try again")
}

// wishes reads what is wanted.
func (r *Registry) wishes(ctx context.Context) (WishesSeen, error) {
	if r.cfg.Wishes == nil {
		return WishesSeen{Wishes: new(Wishes)}, nil
	}
	value, revision, err := r.cfg.Wishes.Get(ctx)
	if err != nil {
		return WishesSeen{}, fmt.Errorf("get wishes: %w", err)
	}
	w, err := parseWishes(value)
	return WishesSeen{Wishes: w, Revision: revision}, err
}

// firstWishes reads what is wanted at the start. What cannot be understood is no wish: servers
// count for more than it does.
func (r *Registry) firstWishes(ctx context.Context) (WishesSeen, error) {
	w, err := r.wishes(ctx)
	if errors.Is(err, errGarbled) {
		r.log.LogAttrs(ctx, slog.LevelError, "wishes of operators not understood, so none holds", slog.String("error", err.Error()))
		return WishesSeen{Wishes: new(Wishes), Revision: w.Revision}, nil
	}
	return w, err
}

// followWishes hears of what operators want until ctx ends.
func (r *Registry) followWishes(ctx context.Context) error {
	if r.cfg.Wishes == nil {
		return nil
	}
	return r.cfg.Wishes.Watch(ctx, func(value []byte, revision uint64, anew bool) {
		w, err := parseWishes(value)
		if err != nil {
			r.log.LogAttrs(ctx, slog.LevelError, "wishes of operators not understood, those before hold", slog.String("error", err.Error()))
			return
		}
		r.inbox.learned(WishesSeen{Wishes: w, Revision: revision, Anew: anew})
	})
}

// tidyEvery is how often wishes are looked through.
const tidyEvery = time.Minute

// tidy takes wishes back whose servers are gone for good, if this registry leads.
func (r *Registry) tidy(ctx context.Context, g *errgroup.Group, now time.Time) {
	if now.Sub(r.tidied) < tidyEvery {
		return
	}
	r.tidied = now
	r.told.forget(now.Add(-r.table.detection.Keep), func(server string) bool { return r.table.own[server] != nil })
	gone := r.table.Orphans(now)
	if len(gone) == 0 || !r.leader.leadsIn(r.term) {
		return
	}
	g.Go(func() error {
		_, err := r.wish(ctx, "registry", func(w *Wishes) error {
			for _, id := range gone {
				delete(w.Servers, id)
			}
			return nil
		})
		if err != nil {
			r.log.LogAttrs(ctx, slog.LevelWarn, "drains of servers that are gone still noted", slog.String("error", err.Error()))
		}
		return nil
	})
}
