package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
)

// eventsCmd prints events as they happen.
type eventsCmd struct {
	natsFlags
	Kind   []string `placeholder:"KIND" help:"Only these kinds: heartbeat, load, server, region, view, demand, sight, decision, session, lock, revoked, report (default: all but heartbeat, load, view, demand and sight)."`
	Region string   `placeholder:"NAME" help:"Only events of this region."`
	Count  int      `placeholder:"N" help:"End after so many events (default: never)."`
	JSON   bool     `name:"json" help:"Print each event as one line of JSON: subject and event."`
}

// loudKinds are printed only if asked for: they are too many to read.
func loudKinds() []string { return []string{"heartbeat", "load", "view", "demand", "sight"} }

// quietKinds are printed unless others are asked for.
func quietKinds() []string {
	return []string{"server", "region", "decision", "session", "lock", "revoked", "report"}
}

// Run prints until Ctrl-C, or until Count events were printed.
func (c *eventsCmd) Run(p *program) error {
	subjects, err := c.subjects()
	if err != nil {
		return err
	}
	conn, err := c.dial(p, "events")
	if err != nil {
		return err
	}
	defer closeConn(p, conn)
	if err := c.checkRegion(p, conn); err != nil {
		return err
	}
	messages := make(chan *nats.Msg, 4096)
	for _, subject := range subjects {
		if _, err := conn.NATS().ChanSubscribe(subject, messages); err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
	}
	if err := conn.Flush(p.ctx); err != nil {
		return err
	}
	return c.print(p, messages)
}

// checkRegion refuses a region that the registry's view does not have, where there is a view.
func (c *eventsCmd) checkRegion(p *program, conn *jetstream.Conn) error {
	if c.Region == "" || c.Region == conn.Region() {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.ctx, listTimeout)
	defer cancel()
	list, err := (&serversCmd{}).read(ctx, conn)
	if known := regionsOf(list); err == nil && len(known) > 0 && !slices.Contains(known, c.Region) {
		return fmt.Errorf("no region %q in the view of %s; known are %s", c.Region, conn.Region(), strings.Join(known, ", "))
	}
	return nil
}

// Help says what the flags do not.
func (*eventsCmd) Help() string {
	return "Events of the region whose NATS is asked; of other regions only view updates, released locks and revocations come there."
}

// subjects returns what to subscribe to.
func (c *eventsCmd) subjects() ([]string, error) {
	kinds := c.Kind
	if len(kinds) == 0 {
		kinds = quietKinds()
	}
	if c.Region != "" {
		if err := checkName("region", c.Region); err != nil {
			return nil, err
		}
	}
	var list []string
	for _, kind := range kinds {
		if known := slices.Concat(loudKinds(), quietKinds()); !slices.Contains(known, kind) {
			return nil, fmt.Errorf("unknown kind %q; known are %s", kind, strings.Join(known, ", "))
		}
		list = append(list, events.Subject{Kind: events.Kind(kind), Region: c.Region}.Filter())
	}
	return list, nil
}

// print writes each message as a line. What does not parse is counted, said at the end, and
// skipped.
func (c *eventsCmd) print(p *program, messages <-chan *nats.Msg) error {
	skipped := 0
	defer func() {
		if skipped > 0 {
			fmt.Fprintf(p.stderr, "berth: skipped %d messages that are no events of this version\n", skipped)
		}
	}()
	for printed := 0; c.Count == 0 || printed < c.Count; {
		select {
		case <-p.ctx.Done():
			return nil
		case m := <-messages:
			if _, err := events.Decode(m.Subject, m.Data); err != nil {
				skipped++
				continue
			}
			if err := c.line(p, m); err != nil {
				return err
			}
			printed++
		}
	}
	return nil
}

func (c *eventsCmd) line(p *program, m *nats.Msg) error {
	if !c.JSON {
		_, err := fmt.Fprintf(p.stdout, "%s %s\n", m.Subject, m.Data)
		return err
	}
	data, err := json.Marshal(recorded{Subject: m.Subject, Event: m.Data})
	if err != nil {
		return fmt.Errorf("encode event of %s: %w", m.Subject, err)
	}
	_, err = fmt.Fprintf(p.stdout, "%s\n", data)
	return err
}
