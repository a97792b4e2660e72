package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// passDeadline is how long a token service may take, all hops together.
const passDeadline = 10 * time.Second

// passedOn are the headers of a client's request that a token service gets. Nothing else is,
// for a token service believes the rest to be ours.
var passedOn = [...]string{"Authorization", "Content-Type", "Accept", "If-None-Match", "User-Agent"}

// TokenPaths passes every path of api.Routes below the prefix ("/", or "/berth" say) on to
// the token services of the server's region, and their answers back. Config.AuthURL is the
// URL that the prefix makes. Mount it beside the API, outside of Lock:
//
//	mux.Handle("/berth/", agent.TokenPaths("/berth"))
//	mux.Handle("/", agent.Lock(api))
//
// A request travels with its deadline, the client's address, the region where it arrived and
// the lock floor of its session, so that no token below the floor is given out. While no
// token service answers, the reply is 503 unavailable with Retry-After, on the paths of
// OAuth temporarily_unavailable.
func (a *Agent) TokenPaths(prefix string) http.Handler {
	prefix = strings.TrimRight("/"+strings.Trim(prefix, "/"), "/")
	mux := http.NewServeMux()
	for _, route := range api.Routes() {
		mux.Handle(route.Method+" "+prefix+route.Path, a.passOn(route))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, &api.Error{Code: api.CodeInvalidRequest, Detail: "no such path: " + r.Method + " " + r.URL.Path})
	})
	return mux
}

// passOn serves one route.
func (a *Agent) passOn(route api.Route) http.Handler {
	refuse := writeProblem
	if strings.HasPrefix(route.Path, "/oauth/") {
		refuse = writeOAuthError
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deadline := deadlineOf(r, time.Now())
		ctx, cancel := context.WithDeadline(r.Context(), deadline)
		defer cancel()
		body, refusal := readBody(w, r)
		if refusal != nil {
			refuse(w, refusal)
			return
		}
		p := peek(route.RPC, body)
		header := a.passedHeader(r, deadline, p.session)
		if refusal := a.elsewhere(ctx, p, header); refusal != nil {
			refuse(w, refusal)
			return
		}
		answer, err := a.askFor(ctx, p.session, p.jurisdiction, route.RPC, header, body)
		if err != nil && route.Method == http.MethodGet && ctx.Err() == nil && !errors.Is(err, errBroken) {
			answer, err = a.askFor(ctx, p.session, p.jurisdiction, route.RPC, header, body)
		}
		if err != nil {
			refuse(w, a.notAnswering(err))
			return
		}
		a.residence.answered(p.jurisdiction)
		answer.write(w)
	})
}

// deadlineOf returns the time after which nobody wants the answer: the client's if it names
// one, at most passDeadline from now.
func deadlineOf(r *http.Request, now time.Time) time.Time {
	deadline := now.Add(passDeadline)
	if at, err := time.Parse(time.RFC3339Nano, r.Header.Get(api.HeaderDeadline)); err == nil && at.Before(deadline) {
		return at
	}
	return deadline
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *api.Error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &api.Error{Code: api.CodeTooLarge, Detail: fmt.Sprintf("a body has at most %d bytes", api.MaxBody)}
	case err != nil:
		return nil, &api.Error{Code: api.CodeInvalidRequest, Detail: "the body ended early"}
	}
	return body, nil
}

// passedHeader returns the headers of a request passed on for the session, "" if unknown.
func (a *Agent) passedHeader(r *http.Request, deadline time.Time, session string) http.Header {
	h := http.Header{}
	for _, name := range passedOn {
		if values := r.Header.Values(name); len(values) > 0 {
			h[name] = values
		}
	}
	h.Set(api.HeaderDeadline, deadline.UTC().Format(time.RFC3339Nano))
	h.Set(api.HeaderArrived, a.cfg.Region)
	h.Set(api.HeaderClientAddress, a.cfg.ClientAddress(r))
	if floor := a.sessions.floor(session); floor.Number > 0 {
		h.Set(api.HeaderFloor, fmt.Sprintf("%d.%s", floor.Number, floor.Region))
	}
	if org := cmp.Or(r.PathValue("org"), r.URL.Query().Get("org")); events.ValidToken(org) {
		h.Set(api.HeaderOrg, org)
	}
	return h
}

// peerAddress returns the address of the connection's other end.
func peerAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// peeked is what a request says of its session.
type peeked struct{ session, jurisdiction, org string }

// peek looks into the refresh token of a request, without verification: the answer rests with
// the token service that verifies it. A request without one is of no session and of the
// global jurisdiction.
func peek(method string, body []byte) peeked {
	var token string
	switch method {
	case api.MethodRefresh, api.MethodLogout:
		var in struct {
			RefreshToken string `json:"refreshToken"`
		}
		if json.Unmarshal(body, &in) == nil {
			token = in.RefreshToken
		}
	case api.MethodToken, api.MethodRevoke:
		form, _ := url.ParseQuery(string(body)) // what could be parsed is enough
		token = form.Get("refresh_token")
		if method == api.MethodRevoke {
			token = form.Get("token")
		}
	}
	var claims struct {
		SessionID    string `json:"sid"`
		Jurisdiction string `json:"jurisdiction"`
		Org          string `json:"org"`
	}
	if parts := strings.Split(token, "."); len(parts) == 3 {
		if payload, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(payload, &claims) // a broken token is for the token service to refuse
		}
	}
	if !events.ValidToken(claims.Jurisdiction) {
		claims.Jurisdiction = events.GlobalJurisdiction
	}
	if !events.ValidToken(claims.Org) {
		claims.Org = ""
	}
	return peeked{claims.SessionID, claims.Jurisdiction, claims.Org}
}

// answer is a token service's reply.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// askTokens asks the token services of the region once.
func (a *Agent) askTokens(ctx context.Context, jurisdiction, method string, header http.Header, body []byte) (answer, error) {
	return a.askFor(ctx, "", jurisdiction, method, header, body)
}

// askFor asks the token services of the region on behalf of a session, empty for none: for a
// refresh the one that the session falls to, and if that does not answer, any of them. A refresh
// whose answer got lost is answered the same again. While they do not answer it fails at once.
func (a *Agent) askFor(ctx context.Context, session, jurisdiction, method string, header http.Header, body []byte) (answer, error) {
	// A token that nobody has verified may name a jurisdiction that nobody serves.
	guarded := a.residence.inside(jurisdiction)
	if guarded && !a.breaker.TryAcquirePermit() {
		a.metrics.passed.WithLabelValues(method, "not_tried").Inc()
		return answer{}, errBroken
	}
	began := time.Now()
	got, err := a.askSome(ctx, session, jurisdiction, method, header, body)
	if guarded {
		a.judge(ctx, time.Since(began), err)
	}
	outcome := "answered"
	if err != nil {
		outcome = "failed"
	}
	a.metrics.passed.WithLabelValues(method, outcome).Inc()
	return got, err
}

// askSome asks the one that the session falls to, then any.
func (a *Agent) askSome(ctx context.Context, session, jurisdiction, method string, header http.Header, body []byte) (answer, error) {
	subject := events.Subject{
		Kind: events.KindRPC, Service: "tokens", Jurisdiction: jurisdiction, Region: a.cfg.Region, Method: method,
	}.String()
	got, err := answer{}, errNoInstance
	if api.Affine(method) {
		got, err = a.callInstance(ctx, subject, session, header, body)
	}
	if err != nil {
		got, err = a.call(ctx, subject, header, body)
	}
	if err == nil {
		a.instances.answered(got.header.Get(api.HeaderInstance), time.Now())
	}
	return got, err
}

// errNoInstance says that a session falls to none.
var errNoInstance = errors.New("no instance is known")

// callInstance asks the instance that the session falls to, which is forgotten if it fails.
func (a *Agent) callInstance(ctx context.Context, subject, session string, header http.Header, body []byte) (answer, error) {
	id, ok := a.instances.choose(session, time.Now())
	if !ok {
		return answer{}, errNoInstance
	}
	one, cancel := context.WithTimeout(ctx, instanceTimeout)
	defer cancel()
	got, err := a.call(one, api.InstanceSubject(subject, id), header, body)
	if err != nil && ctx.Err() == nil {
		a.instances.failed(id)
	}
	return got, err
}

func (a *Agent) call(ctx context.Context, subject string, header http.Header, body []byte) (answer, error) {
	if err := ctx.Err(); err != nil { // past its deadline nobody wants it
		return answer{}, err
	}
	h, data, err := a.cfg.Caller.Call(ctx, subject, header, body)
	if err != nil {
		return answer{}, fmt.Errorf("call %s: %w", subject, err)
	}
	got := answer{header: http.Header{}, body: data}
	for name, values := range h {
		got.header[http.CanonicalHeaderKey(name)] = values
	}
	if got.status, err = strconv.Atoi(got.header.Get(api.HeaderStatus)); err != nil || got.status < 200 || got.status > 599 {
		return answer{}, fmt.Errorf("call %s: the reply has no HTTP status", subject)
	}
	return got, nil
}

// write sends the answer on, but for what concerns the way that it came.
func (g *answer) write(w http.ResponseWriter) {
	for name, values := range g.header {
		switch {
		case name == api.HeaderStatus, name == api.HeaderInstance, name == "Connection", name == "Content-Length", name == "Transfer-Encoding",
			strings.HasPrefix(name, "Nats-"):
		default:
			w.Header()[name] = values
		}
	}
	w.WriteHeader(g.status)
	// An error of Write is the client's: it has gone.
	_, _ = w.Write(g.body)
}
