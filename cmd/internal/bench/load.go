package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
)

// LoadConfig says what a process of generated servers sends.
type LoadConfig struct {
	// Address is host:port of the NATS server.
	Address string
	// Servers is how many servers there are, over so many Connections.
	Servers, Connections int
}

// Load sends heartbeats as it is told on in, one order a line: the rate per second (0: as fast
// as it can), the seconds, and how many loads change in a second. It answers each with two
// lines on out: one when every server was sent once, a LoadReport when it is done. It ends
// with in, or with ctx.
//
// It speaks to NATS by itself, so that it takes as little of the machine as it can.
func Load(ctx context.Context, c LoadConfig, in io.Reader, out io.Writer) error {
	g := &generator{}
	defer g.close()
	for range c.Connections {
		w, err := dialWire(ctx, c.Address)
		if err != nil {
			return err
		}
		g.wires = append(g.wires, w)
	}
	for i := range c.Servers {
		s, err := newSender(i)
		if err != nil {
			return err
		}
		g.senders = append(g.senders, s)
	}
	return answer(ctx, in, out, func(ctx context.Context, order string, say func(any) error) error {
		var rate, changing int
		var seconds float64
		if _, err := fmt.Sscanf(order, "%d %g %d", &rate, &seconds, &changing); err != nil {
			return fmt.Errorf("order %q: want rate, seconds and changing loads: %w", order, err)
		}
		return g.send(ctx, rate, time.Duration(seconds*float64(time.Second)), changing, say)
	})
}

// LoadReport is what a run of a generator was.
type LoadReport struct {
	// Sent counts the heartbeats of all runs.
	Sent int64 `json:"sent"`
	// Rate is that of this run, per second; CPU is the processor time of this run.
	Rate float64       `json:"rate"`
	CPU  time.Duration `json:"cpu"`
}

// generator sends for all servers, each in turn.
type generator struct {
	wires   []*wire
	senders []*sender
	next    int
	sent    int64
	// every is one of how many heartbeats has a new load; round shifts which.
	every, round int
}

// tick is how often a paced generator sends what is due.
const tick = time.Millisecond

// send runs for a time after every server was sent once.
func (g *generator) send(ctx context.Context, rate int, d time.Duration, changing int, say func(any) error) error {
	g.every = 0
	if changing > 0 {
		g.every = max(1, rate/changing)
	}
	if err := g.pace(ctx, rate, int64(len(g.senders)), 0); err != nil {
		return err
	}
	if err := say(struct{}{}); err != nil {
		return err
	}
	before, began, sent := cpuTime(), time.Now(), g.sent
	if err := g.pace(ctx, rate, 0, d); err != nil {
		return err
	}
	return say(LoadReport{Sent: g.sent, Rate: float64(g.sent-sent) / time.Since(began).Seconds(), CPU: cpuTime() - before})
}

// burst is how many heartbeats an unpaced generator sends between two looks at the clock.
const burst = 1000

// pace sends at a rate until a number was sent, or a time has passed.
func (g *generator) pace(ctx context.Context, rate int, most int64, d time.Duration) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	began, from := time.Now(), g.sent
	for {
		passed := time.Since(began)
		if ctx.Err() != nil || most > 0 && g.sent-from >= most || most == 0 && passed >= d {
			return ctx.Err()
		}
		due := int64(burst)
		if rate > 0 {
			due = int64(passed.Seconds()*float64(rate)) - (g.sent - from)
		}
		if most > 0 {
			due = min(due, most-(g.sent-from))
		}
		if err := g.flush(int(due)); err != nil {
			return err
		}
		if rate > 0 {
			<-t.C
		}
	}
}

// flush sends the next heartbeats, with one write to each connection.
func (g *generator) flush(due int) error {
	now := time.Now().UTC().Format(time.RFC3339Nano)
	for range due {
		if g.next++; g.next >= len(g.senders) {
			g.next = 0
			g.round++
		}
		s := g.senders[g.next]
		if g.every > 0 && (g.next+g.round)%g.every == 0 {
			s.load = (s.load + 3) % 90
		}
		w := g.wires[g.next%len(g.wires)]
		w.out = s.append(w.out, now)
		g.sent++
	}
	if due < len(g.wires) { // few: only those that have something
		for i := range due {
			at := (g.next - i + len(g.senders)) % len(g.senders)
			if err := g.wires[at%len(g.wires)].flush(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, w := range g.wires {
		if err := w.flush(); err != nil {
			return err
		}
	}
	return nil
}

func (g *generator) close() {
	for _, w := range g.wires {
		_ = w.conn.Close()
	}
}

// sender writes the heartbeats of one server.
type sender struct {
	subject            string
	before, mid, after []byte
	seq                uint64
	load               int
	reuse              []byte
}

// Placeholders of what changes from one heartbeat to the next.
const (
	markSeq  = 424242
	markLoad = 0.424242
)

func newSender(i int) (*sender, error) {
	h := Heartbeat(i)
	h.Seq, h.Load.Utilisation = markSeq, markLoad
	data, err := events.Encode(h)
	if err != nil {
		return nil, err
	}
	before, rest, ok := bytes.Cut(data, []byte(strconv.Itoa(markSeq)+`,"at":"`))
	_, rest, ok2 := bytes.Cut(rest, []byte(`"`))
	mid, after, ok3 := bytes.Cut(rest, []byte(strconv.FormatFloat(markLoad, 'f', -1, 64)))
	if !ok || !ok2 || !ok3 {
		return nil, fmt.Errorf("heartbeat of an unknown form: %s", data)
	}
	return &sender{subject: h.Subject().String(), before: before, mid: mid, after: after, load: i % 90}, nil
}

// append adds the next heartbeat as a PUB of the NATS protocol.
func (s *sender) append(out []byte, now string) []byte {
	s.seq++
	p := append(s.reuse[:0], s.before...)
	p = strconv.AppendUint(p, s.seq, 10)
	p = append(p, `,"at":"`...)
	p = append(p, now...)
	p = append(p, '"')
	p = append(p, s.mid...)
	p = append(p, '0', '.', byte('0'+s.load/10), byte('0'+s.load%10))
	p = append(p, s.after...)
	s.reuse = p
	out = append(out, "PUB "...)
	out = append(out, s.subject...)
	out = append(out, ' ')
	out = strconv.AppendInt(out, int64(len(p)), 10)
	out = append(out, "\r\n"...)
	out = append(out, p...)
	return append(out, "\r\n"...)
}

// wire is a connection that only publishes.
type wire struct {
	conn net.Conn
	out  []byte

	// mu guards writing: answers to pings come from another goroutine.
	mu sync.Mutex
}

func dialWire(ctx context.Context, address string) (*wire, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	w := &wire{conn: conn}
	if err := w.write([]byte(`CONNECT {"verbose":false,"pedantic":false,"lang":"go","name":"bench","protocol":1}` + "\r\n")); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	go w.listen()
	return w, nil
}

// listen answers pings until the connection is closed.
func (w *wire) listen() {
	lines := bufio.NewReaderSize(w.conn, 512)
	for {
		line, err := lines.ReadString('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
		if strings.HasPrefix(line, "PING") {
			_ = w.write([]byte("PONG\r\n")) // the next write finds out
		}
	}
}

func (w *wire) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	err := w.write(w.out)
	w.out = w.out[:0]
	return err
}

func (w *wire) write(data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.conn.Write(data); err != nil {
		return fmt.Errorf("send heartbeats: %w", err)
	}
	return nil
}
