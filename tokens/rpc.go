package tokens

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// busKey marks the context of a request that came over NATS, from one of berth's own.
type busKey struct{}

func fromBus(r *http.Request) bool { return r.Context().Value(busKey{}) != nil }

// Methods lists what Serve answers.
func Methods() []string {
	methods := []string{api.MethodStart}
	for _, r := range api.Routes() {
		methods = append(methods, r.RPC)
	}
	for _, kind := range peerKinds() {
		methods = append(methods, string(kind))
	}
	return methods
}

// Serve answers one request of rpc.tokens.<jurisdiction>.<region>.<method>: an HTTP request
// passed on, or the start of a session for an application that has authenticated its user.
// Who may ask is settled by NATS permissions. Every refusal is an answer; an unknown method
// is one too.
func (s *Service) Serve(ctx context.Context, method string, header map[string][]string, data []byte) (map[string][]string, []byte) {
	if kind := sessions.Kind(method); slices.Contains(peerKinds(), kind) {
		return s.overNATS(s.servePeer(ctx, kind, http.Header(header), data))
	}
	r, err := request(context.WithValue(ctx, busKey{}, true), method, header, data)
	var m message
	switch {
	case err != nil:
		m = problem(&api.Error{Code: api.CodeInvalidRequest, Detail: err.Error()})
	case method == api.MethodStart:
		m = s.serveStart(r, data)
	default:
		rec := &recorder{header: http.Header{}, status: http.StatusOK}
		s.handler.ServeHTTP(rec, r)
		m = message{status: rec.status, header: rec.header, body: rec.body.Bytes()}
	}
	return s.overNATS(m)
}

// overNATS returns the message as the header and data of a reply.
func (s *Service) overNATS(m message) (map[string][]string, []byte) {
	if m.header == nil {
		m.header = http.Header{}
	}
	if m.kind != "" {
		m.header.Set("Content-Type", m.kind)
	}
	m.header.Set(api.HeaderStatus, strconv.Itoa(m.status))
	if s.cfg.Instance != "" {
		m.header.Set(api.HeaderInstance, s.cfg.Instance)
	}
	return m.header, m.body
}

// request rebuilds the HTTP request that a message stands for.
func request(ctx context.Context, method string, header map[string][]string, data []byte) (*http.Request, error) {
	route := api.Route{Method: http.MethodPost, Path: "/"}
	if method != api.MethodStart {
		found := false
		for _, candidate := range api.Routes() {
			if candidate.RPC == method {
				route, found = candidate, true
			}
		}
		if !found {
			return nil, fmt.Errorf("unknown method %q", method)
		}
	}
	canonical := http.Header{}
	for name, values := range header {
		canonical[http.CanonicalHeaderKey(name)] = values
	}
	r, err := http.NewRequestWithContext(ctx, route.Method, lookUp(route, canonical.Get(api.HeaderOrg)), bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("rebuild request: %w", err)
	}
	r.Header = canonical
	return r, nil
}

// lookUp returns the path of a route for an organization.
func lookUp(route api.Route, org string) string {
	switch {
	case route.RPC == api.MethodOrg:
		return strings.Replace(route.Path, "{org}", url.PathEscape(cmp.Or(org, "-.-")), 1) // no name is no organization's
	case route.RPC == api.MethodClosest && org != "":
		return route.Path + "?org=" + url.QueryEscape(org)
	default:
		return route.Path
	}
}

func (s *Service) serveStart(r *http.Request, data []byte) message {
	c := s.callOf(r, time.Now())
	ctx, cancel := context.WithDeadline(r.Context(), c.deadline)
	defer cancel()
	req, err := decode[api.StartRequest](data)
	if err != nil {
		return s.refusal(ctx, api.MethodStart, err)
	}
	reply, err := s.start(ctx, c, req)
	if err != nil {
		return s.refusal(ctx, api.MethodStart, err)
	}
	m, err := s.granted(&reply)
	if err != nil {
		return s.refusal(ctx, api.MethodStart, err)
	}
	return m // its room stays with it: when NATS has sent it is not known
}

// recorder takes a handler's reply. It is used by one goroutine.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *recorder) WriteHeader(status int)      { r.status = status }
