package residency

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/primary"
)

// ErrNotLoaded says that the organizations have not been read yet.
var ErrNotLoaded = errors.New("the organizations are not known yet")

// Directory gives the organizations by name, from memory. It may be used by several goroutines at once.
type Directory struct {
	watcher primary.Watcher
	log     *slog.Logger
	// known is nil until all documents have been read once.
	known atomic.Pointer[map[string]Entry]
	// current is when the documents were last proven to be the primary's, in Unix nanoseconds; 0: never.
	current atomic.Int64
}

// Entry is an organization that has a document, or why that cannot be used.
type Entry struct {
	Name  string
	Org   Org
	Fault error
}

// NewDirectory returns a directory that knows nothing before Run. log may be nil: discarded.
func NewDirectory(w primary.Watcher, log *slog.Logger) *Directory {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Directory{watcher: w, log: log}
}

// Run follows the documents until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	err := d.watcher.Watch(ctx, func(documents map[string][]byte, complete bool) { d.take(ctx, documents, complete) }, func(at time.Time) {
		d.current.Store(at.UnixNano())
	})
	if ctx.Err() == nil && err != nil {
		return fmt.Errorf("follow organizations: %w", err)
	}
	return nil
}

// take makes the next state known. What is read is never changed.
func (d *Directory) take(ctx context.Context, documents map[string][]byte, complete bool) {
	next := map[string]Entry{}
	if last := d.known.Load(); last != nil && !complete {
		next = maps.Clone(*last)
	} else if !complete {
		return // the whole is still to come
	}
	for name, data := range documents {
		if data == nil {
			delete(next, name)
			continue
		}
		org, err := Decode(name, data)
		if err != nil {
			d.log.LogAttrs(ctx, slog.LevelError, "document of an organization cannot be used; its sessions go by the strictest rules",
				slog.String("org", name), slog.String("error", err.Error()))
		}
		next[name] = Entry{name, org, err}
	}
	d.known.Store(&next)
}

// Org returns an organization; one without a document is Default. It fails with ErrNotLoaded before the
// documents have been read, and where a document cannot be used: then the strictest is to be assumed.
func (d *Directory) Org(name string) (Org, error) {
	org, _, err := d.Lookup(name)
	return org, err
}

// Lookup returns an organization as Org does, and whether it has a document.
func (d *Directory) Lookup(name string) (org Org, set bool, err error) {
	known := d.known.Load()
	if known == nil {
		return Org{}, false, ErrNotLoaded
	}
	e, set := (*known)[name]
	if !set {
		return Default(name), false, nil
	}
	return e.Org, true, e.Fault
}

// List returns the organizations that have a document and a name above after, sorted by name. It fails
// with ErrNotLoaded before the documents have been read.
func (d *Directory) List(after string) (iter.Seq[Entry], error) {
	known := d.known.Load()
	if known == nil {
		return nil, ErrNotLoaded
	}
	var names []string
	for name := range *known {
		if name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return func(yield func(Entry) bool) {
		for _, name := range names {
			if !yield((*known)[name]) {
				return
			}
		}
	}, nil
}

// Current returns when the directory was last proven to hold what the primary region has; the zero time
// before that.
func (d *Directory) Current() time.Time {
	if at := d.current.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Ready returns nil once the documents have been read.
func (d *Directory) Ready() error {
	if d.known.Load() == nil {
		return ErrNotLoaded
	}
	return nil
}
