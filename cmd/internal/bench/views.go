package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/registry"
)

// Goals of rows 2 to 4.
const (
	goalChange   = 300 * time.Microsecond
	goalChange99 = 2 * time.Millisecond
	goalFresh    = 25 * time.Millisecond
	goalMemory   = 70 << 20
)

// mb is the unit of memory.
const mb = 1 << 20

// views measures one registry at the fleet's own pace: its memory, then how soon others see a
// change, then how soon one who begins sees everything.
func (r *run) views(ctx context.Context) (err error) {
	empty, err := r.emptyNATS(ctx)
	if err != nil {
		return err
	}
	side, first, err := r.side(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, side.close()) }()
	load, err := r.load(ctx, first, connections)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, load.close()) }()
	r.say("memory at %d heartbeats/s", r.Servers)
	if _, err = r.phase(side, load, r.Servers, r.Phase, settleLimit); err != nil {
		return err
	}
	var used SideReport
	if err := side.ask("", &used); err != nil {
		return err
	}
	memory := Row{
		Work: fmt.Sprintf("memory of registry and NATS, %d servers over %d connections", r.Servers, connections), Unit: "MB",
		Ours: float64(used.RSS) / mb, Floor: float64(empty.RSS) / mb, Goal: fmt.Sprintf("at most %d MB", goalMemory/mb),
		Met: used.RSS > 0 && used.RSS <= goalMemory, Detail: fmt.Sprintf("RSS at %d heartbeats/s of which %d change the view; the floor is a NATS server with empty streams", r.Servers, r.changing()),
	}
	parent, err := r.dial(ctx, first.URL)
	if err != nil {
		return err
	}
	defer parent.close()
	if err := r.changes(ctx, load, parent); err != nil {
		return err
	}
	if err := r.fresh(ctx, parent); err != nil {
		return err
	}
	r.report.add(memory)
	return nil
}

// emptyNATS returns how a NATS server without anything to do is.
func (r *run) emptyNATS(ctx context.Context) (SideReport, error) {
	side, report, err := r.side(ctx, true)
	if err != nil {
		return report, err
	}
	return report, side.close()
}

// peers are the connections from which changes are made and seen.
type peers struct {
	writer, reader *jetstream.Conn
}

func (r *run) dial(ctx context.Context, url string) (*peers, error) {
	var p peers
	for _, c := range []**jetstream.Conn{&p.writer, &p.reader} {
		var err error
		if *c, err = jetstream.Dial(ctx, jetstream.Config{URL: url, Region: region, Role: "bench"}); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	return &p, nil
}

func (p *peers) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, c := range []*jetstream.Conn{p.writer, p.reader} {
		if c != nil {
			_ = c.Close(ctx) // it was only listening
		}
	}
	return nil
}

// changes measures row 2.
func (r *run) changes(ctx context.Context, load *child, p *peers) error {
	r.say("changes of state to a view, %d updates/s", r.changing())
	var begun struct{}
	if err := load.ask(fmt.Sprintf("%d %g %d", r.Servers, (r.Phase*11/4+2*warmUp).Seconds(), r.changing()), &begun); err != nil {
		return err
	}
	if err := fillBucket(ctx, p.writer, r.Servers); err != nil {
		return err
	}
	ours, err := r.flips(ctx, p)
	if err != nil {
		return err
	}
	r.say("the floor: keys put to a watch")
	floor, err := r.puts(ctx, p)
	if err != nil {
		return err
	}
	var loaded LoadReport
	if err := load.hear(&loaded); err != nil {
		return err
	}
	slices.Sort(floor)
	r.report.add(Row{
		Work: "change of a server's state to a token service's view", Unit: "ms",
		Ours: millis(quantile(ours.decided, 0.5)), Floor: millis(quantile(floor, 0.5)),
		Goal: fmt.Sprintf("p50 at most %.1f ms, p99 at most %.0f ms", millis(goalChange), millis(goalChange99)),
		Met:  quantile(ours.decided, 0.5) <= goalChange && quantile(ours.decided, 0.99) <= goalChange99,
		Detail: fmt.Sprintf("p50 of %d, p99 %.2f ms (p99 of the %d ms before, while the follower is cold: %.2f ms); from the heartbeat on p50 %.2f, p99 %.2f ms; beside %d heartbeats/s of which %d change the view; floor: KV put to watch, p99 %.2f ms",
			len(ours.decided), millis(quantile(ours.decided, 0.99)), warmUp.Milliseconds(), millis(quantile(ours.cold, 0.99)), millis(quantile(ours.sent, 0.5)), millis(quantile(ours.sent, 0.99)), r.Servers, r.changing(), millis(quantile(floor, 0.99))),
	})
	return nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile returns that of a sorted list.
func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return list[min(len(list)-1, int(q*float64(len(list))))]
}

// fresh measures row 3, ours and the floor in turn. The fleet is quiet now, but not for so long
// that it would be missed.
func (r *run) fresh(ctx context.Context, p *peers) error {
	r.say("fresh views")
	kv, err := p.reader.JetStream().KeyValue(ctx, registry.Bucket)
	if err != nil {
		return fmt.Errorf("open bucket: %w", err)
	}
	const times = 7
	var ours, floor []time.Duration
	for range times {
		took, err := freshWatch(ctx, kv, r.Servers)
		if err != nil {
			return err
		}
		floor = append(floor, took)
		if took, err = freshView(ctx, p.reader, r.Servers); err != nil {
			return err
		}
		ours = append(ours, took)
	}
	slices.Sort(ours)
	slices.Sort(floor)
	r.report.add(Row{
		Work: fmt.Sprintf("fresh view of %d servers", r.Servers), Unit: "ms",
		Ours: millis(ours[times/2]), Floor: millis(floor[times/2]), Goal: fmt.Sprintf("at most %.0f ms", millis(goalFresh)),
		Met: ours[times/2] <= goalFresh,
		Detail: fmt.Sprintf("median of %d, %.1f to %.1f ms; floor: KV watch of the same keys, %.1f to %.1f ms",
			times, millis(ours[0]), millis(ours[times-1]), millis(floor[0]), millis(floor[times-1])),
	})
	return nil
}

// floorName is the bucket of the floors.
const floorName = "bench_floor"

// fillBucket makes the bucket of the floors, with as many values as there are servers.
func fillBucket(ctx context.Context, conn *jetstream.Conn, n int) error {
	js := conn.JetStream()
	if _, err := js.CreateOrUpdateKeyValue(ctx, natsjs.KeyValueConfig{Bucket: floorName, Storage: natsjs.FileStorage}); err != nil {
		return fmt.Errorf("make bucket: %w", err)
	}
	for i := range n {
		subject, value := floorSubject(i), make([]byte, 600)
		if _, err := js.PublishAsync(subject, value, natsjs.WithStallWait(time.Minute)); err != nil {
			return fmt.Errorf("put keys: %w", err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func floorSubject(i int) string { return fmt.Sprintf("$KV.%s.bench.%05d", floorName, i) }
