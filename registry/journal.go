package registry

import (
	"context"
	"log/slog"
	"time"

	"github.com/berthhq/berth/events"
)

// journal publishes what happens to servers and regions, in order, each event again until it
// is stored or this registry no longer leads. It never makes the registry wait.
type journal struct {
	bus     Bus
	log     *slog.Logger
	metrics *metrics
	// leads reports whether this registry may publish what it said in a term. What it may not, the
	// next leader tells, and this registry in a later term too.
	leads func(term uint64) bool
	queue chan *entry
}

// entry is an event on its way.
type entry struct {
	subject string
	data    []byte
	said    time.Time
	term    uint64
}

const (
	// maxJournal is how many events may wait: a region of the largest size that dies at once.
	maxJournal = 40_000
	// journalPatience is how long an event is tried again: longer than an election takes.
	journalPatience = 30 * time.Second
	journalRetry    = 100 * time.Millisecond
	// journalTimeout bounds one try.
	journalTimeout = 5 * time.Second
	// drainLimit bounds what is still done when the registry ends.
	drainLimit = time.Second
)

func newJournal(bus Bus, log *slog.Logger, m *metrics, leads func(uint64) bool) *journal {
	return &journal{bus: bus, log: log, metrics: m, leads: leads, queue: make(chan *entry, maxJournal)}
}

// say logs an event and hands it on. What does not fit is lost, and counted.
func (j *journal) say(ctx context.Context, term uint64, e events.Event, attrs ...slog.Attr) {
	subject := e.Subject().String()
	j.log.LogAttrs(ctx, slog.LevelInfo, "changed", append([]slog.Attr{slog.String("subject", subject)}, attrs...)...)
	data, err := events.Encode(e)
	if err != nil {
		j.lose(ctx, subject, err.Error())
		return
	}
	select {
	case j.queue <- &entry{subject: subject, data: data, said: time.Now(), term: term}:
	default:
		j.lose(ctx, subject, "too many wait")
	}
}

// run publishes until ctx ends, and then what is left for a moment more.
func (j *journal) run(ctx context.Context) {
	for {
		select {
		case e := <-j.queue:
			j.publish(ctx, e)
		case <-ctx.Done():
			j.drain(ctx)
			return
		}
	}
}

func (j *journal) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	for {
		select {
		case e := <-j.queue:
			j.publish(ctx, e)
		default:
			return
		}
	}
}

// publish tries until the event is stored, it is too old, this registry leads no more, or ctx
// ends.
func (j *journal) publish(ctx context.Context, e *entry) {
	for j.leads(e.term) {
		limited, cancel := context.WithTimeout(ctx, journalTimeout)
		err := j.bus.Publish(limited, e.subject, e.data)
		cancel()
		if err == nil {
			return
		}
		if time.Since(e.said) > journalPatience || !sleep(ctx, journalRetry) {
			j.lose(ctx, e.subject, err.Error())
			return
		}
	}
}

func (j *journal) lose(ctx context.Context, subject, why string) {
	j.metrics.lost.Inc()
	j.log.LogAttrs(ctx, slog.LevelWarn, "event not published", slog.String("subject", subject), slog.String("error", why))
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
