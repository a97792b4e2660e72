package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthhq/berth/tokens/api"
)

// Content types of the replies.
const (
	contentJSON    = "application/json"
	contentProblem = "application/problem+json"
)

// Handler serves every token path.
func (s *Service) Handler() http.Handler { return s.handler }

func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	for _, o := range s.operations() {
		mux.HandleFunc(o.method+" "+o.path, o.serve)
	}
	s.oauth(mux)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(&api.Error{Code: api.CodeInvalidRequest, Detail: "no such path: " + r.Method + " " + r.URL.Path}).write(w)
	})
	return guard(mux)
}

// guard sets what every answer carries, nothing of a token service may be cached or
// sniffed, and bounds what every request may send.
func guard(next http.Handler) http.Handler {
	noStore, noSniff := []string{"no-store"}, []string{"nosniff"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
		if r.ContentLength > api.MaxBody {
			if m := problem(tooLarge()); strings.HasPrefix(r.URL.Path, "/oauth/") {
				writeOAuth(w, m)
			} else {
				m.write(w)
			}
			return
		}
		if r.ContentLength < 0 { // net/http holds others to their length
			r.Body = http.MaxBytesReader(w, r.Body, api.MaxBody)
		}
		next.ServeHTTP(w, r)
	})
}

func tooLarge() *api.Error {
	return &api.Error{Code: api.CodeTooLarge, Detail: fmt.Sprintf("a body may have %d bytes", api.MaxBody)}
}

// operation is one path of /v1: how it is served, and how it is described.
type operation struct {
	id, method, path, summary string
	// org says where the name of an organization stands: "path" or "query"; empty: nowhere.
	org      string
	serve    http.HandlerFunc
	describe func(huma.API)
}

// operations lists the /v1 operations.
func (s *Service) operations() []operation {
	return []operation{
		serve[api.TokensReply](operation{id: "login", method: http.MethodPost, path: "/v1/login", summary: "Start a session"}, s, s.serveLogin),
		serve[api.TokensReply](operation{id: "refresh", method: http.MethodPost, path: "/v1/refresh", summary: "Redeem a refresh token: stay or move"}, s, s.serveRefresh),
		serve[none](operation{id: "logout", method: http.MethodPost, path: "/v1/logout", summary: "End a session"}, s, s.serveLogout),
		serve[api.ClosestReply](operation{id: "closestToMe", method: http.MethodGet, path: "/v1/closestToMe", org: "query", summary: "The servers nearest to the client"}, s, s.serveClosest),
		serve[api.ServersReply](operation{id: "servers", method: http.MethodGet, path: "/v1/servers", summary: "The region's active servers"}, s, s.serveServers),
		serve[api.OrgReply](operation{id: "org", method: http.MethodGet, path: "/v1/orgs/{org}", org: "path", summary: "Where an organization's sessions are"}, s, s.serveOrg),
	}
}

// none is the body of requests and replies that have none.
type none struct{}

// serve completes an operation: a body of type In, a reply of type Out, every error a problem
// document.
func serve[Out, In any](o operation, s *Service, fn func(context.Context, call, *http.Request, In) (message, error)) operation {
	run := func(ctx context.Context, c call, r *http.Request) (message, error) {
		var in In
		if o.method != http.MethodGet {
			room := roomFrom(&s.rooms)
			err := room.read(r)
			if err == nil {
				in, err = decode[In](room.bytes)
			}
			room.back() // what was decoded is a copy
			if err != nil {
				return message{}, err
			}
		}
		return fn(ctx, c, r, in)
	}
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		c := s.callOf(r, time.Now())
		ctx, cancel := context.WithDeadline(r.Context(), c.deadline)
		defer cancel()
		m, err := run(ctx, c, r)
		if err != nil {
			m = s.refusal(ctx, o.id, err)
		}
		m.write(w)
	}
	o.describe = func(a huma.API) { describe[In, Out](a, o) }
	return o
}

// read takes a request's body, which guard bounds.
func (r *room) read(from *http.Request) (err error) {
	if n := int(from.ContentLength); n >= 0 {
		r.bytes = slices.Grow(r.bytes[:0], n)[:n]
		_, err = io.ReadFull(from.Body, r.bytes)
	} else {
		r.bytes, err = io.ReadAll(from.Body)
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return tooLarge()
	case err != nil:
		return invalid(api.FieldError{Location: "body", Message: "ended early"})
	}
	return nil
}

// decode reads a JSON body. Unknown fields are left to newer versions; everything else that
// does not fit is an error that names its place.
func decode[In any](data []byte) (In, error) {
	var in In
	if r, ok := any(&in).(*api.RefreshRequest); ok && scanRefresh(data, r) {
		return in, nil
	}
	err := json.Unmarshal(data, &in)
	var typeErr *json.UnmarshalTypeError
	var syntaxErr *json.SyntaxError
	switch {
	case err == nil:
		return in, nil
	case errors.As(err, &typeErr):
		return in, invalid(api.FieldError{Location: "body." + typeErr.Field, Message: "want " + typeErr.Type.String() + ", got " + typeErr.Value})
	case errors.As(err, &syntaxErr):
		return in, invalid(api.FieldError{Location: "body", Message: fmt.Sprintf("not JSON at byte %d: %v", syntaxErr.Offset, syntaxErr)})
	default:
		return in, invalid(api.FieldError{Location: "body", Message: err.Error()})
	}
}

// refusal turns an error into its problem document. What was wrong inside is logged here,
// once, and not sent.
func (s *Service) refusal(ctx context.Context, operation string, err error) message {
	e := asError(err)
	if e.Cause != nil && e.Code.Status() >= http.StatusInternalServerError {
		s.faults.note(ctx, e.Cause)
		s.log.LogAttrs(ctx, slog.LevelWarn, "request refused", slog.String("operation", operation),
			slog.String("code", string(e.Code)), slog.String("error", e.Cause.Error()))
	}
	return problem(e)
}

// problem returns an error as it is sent.
func problem(e *api.Error) message {
	body, err := json.Marshal(e.Problem())
	if err != nil {
		body = []byte(`{"title":"Internal error","status":500,"code":"unavailable"}`)
	}
	m := message{status: e.Code.Status(), header: http.Header{"Content-Type": {contentProblem}}, body: body}
	if m.status == http.StatusServiceUnavailable || m.status == http.StatusTooManyRequests {
		m.header.Set("Retry-After", strconv.Itoa(max(1, e.RetryAfter)))
	}
	if m.status == http.StatusUnauthorized {
		m.header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	return m
}

// success returns v as a reply of status 200.
func success(v any) (message, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return message{}, fmt.Errorf("encode reply: %w", err)
	}
	return message{status: http.StatusOK, kind: contentJSON, body: body}, nil
}

// granted returns a reply with tokens.
func (s *Service) granted(t *api.TokensReply) (message, error) {
	room := roomFrom(&s.rooms)
	var err error
	if room.bytes, err = appendReply(room.bytes, t); err != nil {
		return message{}, fmt.Errorf("encode reply: %w", err)
	}
	return message{status: http.StatusOK, kind: contentJSON, body: room.bytes, room: room}, nil
}

// write sends the message, which is of no use afterwards.
func (m message) write(w http.ResponseWriter) {
	h := w.Header()
	if m.kind != "" {
		h["Content-Type"] = []string{m.kind}
	}
	if m.header != nil {
		for _, name := range [...]string{"Content-Type", "Retry-After", "Etag", "Cache-Control", "Www-Authenticate"} {
			if v := m.header[name]; len(v) > 0 {
				h[name] = v
			}
		}
	}
	if len(m.body) > 0 {
		h["Content-Length"] = []string{strconv.Itoa(len(m.body))}
	}
	w.WriteHeader(m.status)
	_, _ = w.Write(m.body) // the client has gone; there is nobody to tell
	if m.room != nil {
		m.room.back()
	}
}
