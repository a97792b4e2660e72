package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/primary"
)

// Name is the key of the one document in berth_policy.
const Name = "placement"

// Posted is a document as it stands in berth_policy.
type Posted struct {
	Version int `json:"version"`
	// Document is the plan in YAML or JSON, as it was written.
	Document  string    `json:"document"`
	ChangedAt time.Time `json:"changed_at"`
	// ChangedBy is who, as they called themselves.
	ChangedBy string `json:"changed_by,omitempty"`
}

// postedVersion is the version of Posted that this build writes and reads.
const postedVersion = 1

// decode reads what is posted, and its plan.
func decode(data []byte) (Posted, Plan, error) {
	var p Posted
	if err := json.Unmarshal(data, &p); err != nil {
		return p, Plan{}, fmt.Errorf("policy as it is stored cannot be read: %w", err)
	}
	if p.Version != postedVersion {
		return p, Plan{}, fmt.Errorf("policy is stored in version %d: this build reads %d", p.Version, postedVersion)
	}
	plan, err := Parse([]byte(p.Document))
	return p, plan, err
}

// Board gives the plan in force, from memory: the one posted, or what the service was started with
// until there is any. It may be used by several goroutines at once.
type Board struct {
	watcher primary.Watcher
	log     *slog.Logger
	initial Plan
	now     atomic.Pointer[inForce]
	// current is when the board was last proven to show the primary's, in Unix nanoseconds; 0: never.
	current atomic.Int64
}

// inForce is a plan and, if it was posted, how.
type inForce struct {
	plan   Plan
	posted *Posted
	// fault is why what is posted since is not in force.
	fault error
}

// NewBoard returns a board that shows the initial plan before Run. log may be nil: discarded.
func NewBoard(w primary.Watcher, initial Plan, log *slog.Logger) *Board {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Board{watcher: w, log: log, initial: initial}
	b.now.Store(&inForce{plan: initial})
	return b
}

// Run follows what is posted until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	err := b.watcher.Watch(ctx, func(documents map[string][]byte, complete bool) { b.take(ctx, documents, complete) }, func(at time.Time) {
		b.current.Store(at.UnixNano())
	})
	if ctx.Err() == nil && err != nil {
		return fmt.Errorf("follow the policy: %w", err)
	}
	return nil
}

// take puts in force what was posted. What cannot be used changes nothing: it may be of another build.
func (b *Board) take(ctx context.Context, documents map[string][]byte, complete bool) {
	data, ok := documents[Name]
	switch {
	case !ok && !complete:
		return
	case data == nil:
		b.now.Store(&inForce{plan: b.initial})
		return
	}
	posted, plan, err := decode(data)
	if err != nil {
		b.log.LogAttrs(ctx, slog.LevelError, "posted policy cannot be used; the one before stays in force", slog.String("error", err.Error()))
		last := *b.now.Load()
		last.fault = err
		b.now.Store(&last)
		return
	}
	before := b.now.Swap(&inForce{plan: plan, posted: &posted})
	if before.posted == nil || before.posted.Document != posted.Document {
		b.log.LogAttrs(ctx, slog.LevelInfo, "policy in force", slog.String("policy", plan.String()),
			slog.String("changed_by", posted.ChangedBy), slog.Time("changed_at", posted.ChangedAt))
	}
}

// For returns the policy by which a session is placed now, as Plan.For does.
func (b *Board) For(session string) placement.Policy {
	return b.now.Load().plan.For(session)
}

// InForce returns the plan in force and how it was posted, nil if it is what the service was started
// with. The error is why what is posted since is not in force.
func (b *Board) InForce() (Plan, *Posted, error) {
	now := b.now.Load()
	return now.plan, now.posted, now.fault
}

// Current returns when the board was last proven to show what is posted; the zero time before that.
func (b *Board) Current() time.Time {
	if at := b.current.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}
