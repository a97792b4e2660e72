package tokens

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// message is a reply, as HTTP or as it travels over NATS.
type message struct {
	status int
	header http.Header
	// kind is the content type, where header does not say it.
	kind string
	body []byte
	// room is what body was written into; write puts it back. nil: it is body's alone.
	room *room
}

// room is a buffer that is used again. The zero value is one without a home.
type room struct {
	bytes []byte
	home  *sync.Pool
}

// roomFrom returns an empty one.
func roomFrom(home *sync.Pool) *room {
	r, ok := home.Get().(*room)
	if !ok {
		return &room{home: home}
	}
	r.bytes = r.bytes[:0]
	return r
}

// back gives it up.
func (r *room) back() { r.home.Put(r) }

// forward passes a request about a session on to the region that owns it, and returns that
// region's answer as it is. The deadline and the hops travel along; after api.MaxHops the
// request goes no further.
func (s *Service) forward(ctx context.Context, c call, method, jurisdiction, region string, body any) (message, error) {
	if c.hops >= api.MaxHops {
		return message{}, unavailable("the session's region could not be settled", fmt.Errorf("%d hops", c.hops))
	}
	data, err := json.Marshal(body)
	if err != nil {
		return message{}, unavailable("the request could not be passed on", err)
	}
	subject := events.Subject{
		Kind: events.KindRPC, Service: "tokens", Jurisdiction: jurisdiction, Region: region, Method: method,
	}
	c.hops++
	return s.ask(ctx, subject, c.headers(), data)
}

// passOn passes a request on to the region that owns the session, directly or, if that does not
// answer, through a region that hears it (V15).
func (s *Service) passOn(ctx context.Context, c call, method, jurisdiction, owner string, body any) (message, error) {
	first, cancel := context.WithTimeout(ctx, forwardTimeout)
	m, err := s.forward(first, c, method, jurisdiction, owner, body)
	cancel()
	if err == nil {
		return m, nil
	}
	_, witnesses := s.sight.silent(owner, time.Now())
	for _, region := range witnesses {
		if region == s.cfg.Region || c.hops+1 >= api.MaxHops {
			continue
		}
		second, cancel := context.WithTimeout(ctx, forwardTimeout)
		m, again := s.forward(second, c, method, jurisdiction, region, body)
		cancel()
		if again == nil {
			return m, nil
		}
	}
	return message{}, err
}

// forwardTimeout bounds the wait for one region, so that there is time for another way.
const forwardTimeout = 4 * time.Second

// ask sends one request over NATS. An HTTP refusal is an answer, not an error.
func (s *Service) ask(ctx context.Context, subject events.Subject, header http.Header, data []byte) (message, error) {
	h, reply, err := s.cfg.Caller.Call(ctx, subject.String(), header, data)
	if err != nil {
		return message{}, unavailable("region "+subject.Region+" does not answer", err)
	}
	m := message{header: http.Header(h), body: reply}
	if m.status, err = strconv.Atoi(m.header.Get(api.HeaderStatus)); err != nil || m.status < 200 || m.status > 599 {
		return message{}, unavailable("region "+subject.Region+" gave no proper answer", err)
	}
	return m, nil
}

// headers returns the call as headers of a request passed on.
func (c call) headers() http.Header {
	h := http.Header{}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set(api.HeaderArrived, c.arrived)
	set(api.HeaderClientAddress, c.address)
	set(api.HeaderHops, strconv.Itoa(c.hops))
	if !c.deadline.IsZero() {
		set(api.HeaderDeadline, c.deadline.UTC().Format(time.RFC3339Nano))
	}
	if c.floor.Number > 0 {
		set(api.HeaderFloor, fmt.Sprintf("%d.%s", c.floor.Number, c.floor.Region))
	}
	if c.location != nil {
		set(headerLocation, c.location.String())
	}
	return h
}

// headerLocation tells where the client is. It is honoured from other services, and from
// clients only where the configuration trusts them.
const headerLocation = "X-Berth-Client-Location"

// callOf reads what a request tells of itself. A request that came over NATS is believed:
// its sender is one of ours; of a client's own words only those are kept that harm nobody.
func (s *Service) callOf(r *http.Request, now time.Time) call {
	c := call{arrived: s.cfg.Region, address: hostOf(r.RemoteAddr), deadline: now.Add(Deadline)}
	internal := fromBus(r)
	if internal {
		if arrived := r.Header.Get(api.HeaderArrived); events.ValidToken(arrived) {
			c.arrived = arrived
		}
		c.hops, _ = strconv.Atoi(r.Header.Get(api.HeaderHops))
		c.floor = parseEpoch(r.Header.Get(api.HeaderFloor))
		if address := r.Header.Get(api.HeaderClientAddress); address != "" {
			c.address = address
		}
	} else if len(s.cfg.TrustedProxies) > 0 {
		c.address = s.behindProxies(c.address, r.Header["X-Forwarded-For"])
	}
	if location := r.Header.Get(headerLocation); location != "" && (internal || s.cfg.TrustLocation) {
		if at, err := events.ParseLocation(location); err == nil {
			c.location = &at
		}
	}
	if deadline := r.Header.Get(api.HeaderDeadline); deadline != "" {
		if at, err := time.Parse(time.RFC3339Nano, deadline); err == nil && at.Before(c.deadline) {
			c.deadline = at
		}
	}
	return c
}

func hostOf(address string) string {
	if i := strings.LastIndexByte(address, ':'); i > 0 {
		return address[:i]
	}
	return address
}

// parseEpoch reads "<number>.<region>"; anything else is no epoch.
func parseEpoch(s string) events.Epoch {
	number, region, _ := strings.Cut(s, ".")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || !events.ValidToken(region) {
		return events.Epoch{}
	}
	return events.Epoch{Number: n, Region: region}
}
