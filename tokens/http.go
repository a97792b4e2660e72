package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/berthhq/berth/tokens/api"
)

// Content types of the replies.
const (
	contentJSON    = "application/json"
	contentProblem = "application/problem+json"
)

// Handler serves every token path.
func (s *Service) Handler() http.Handler { return s.handler }

// OpenAPI returns the description of /v1 as YAML, made from the very operations that a
// service registers.
func OpenAPI() ([]byte, error) { return new(Service).v1(http.NewServeMux()).OpenAPI().YAML() }

func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	s.v1(mux)
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
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.ContentLength > api.MaxBody {
			if m := problem(tooLarge()); strings.HasPrefix(r.URL.Path, "/oauth/") {
				writeOAuth(w, m)
			} else {
				m.write(w)
			}
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, api.MaxBody)
		next.ServeHTTP(w, r)
	})
}

func tooLarge() *api.Error {
	return &api.Error{Code: api.CodeTooLarge, Detail: fmt.Sprintf("a body may have %d bytes", api.MaxBody)}
}

// v1 registers the /v1 operations.
func (s *Service) v1(mux *http.ServeMux) huma.API {
	config := huma.DefaultConfig("berth token service", "v1")
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.AllowAdditionalPropertiesByDefault = true // what a newer client sends besides is ignored
	config.CreateHooks = nil                         // no $schema links: the paths may stand under a prefix
	config.Transformers = []huma.Transformer{ownProblem}
	a := humago.New(mux, config)
	serve[api.LoginRequest, api.TokensReply](s, a, "login", http.MethodPost, "/v1/login", "Start a session", s.serveLogin)
	serve[api.RefreshRequest, api.TokensReply](s, a, "refresh", http.MethodPost, "/v1/refresh", "Redeem a refresh token: stay or move", s.serveRefresh)
	serve[api.LogoutRequest, none](s, a, "logout", http.MethodPost, "/v1/logout", "End a session", s.serveLogout)
	serve[none, api.ClosestReply](s, a, "closestToMe", http.MethodGet, "/v1/closestToMe", "The servers nearest to the client", s.serveClosest)
	serve[none, api.ServersReply](s, a, "servers", http.MethodGet, "/v1/servers", "The region's active servers", s.serveServers)
	return a
}

// none is the body of requests and replies that have none.
type none struct{}

// ownProblem replaces the errors that huma itself makes (a body too large or unreadable) by
// ours.
func ownProblem(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := api.CodeInvalidRequest
	if e.Status == http.StatusRequestEntityTooLarge {
		code = api.CodeTooLarge
	}
	return api.Problem{Title: code.Title(), Status: e.Status, Detail: e.Detail, Code: string(code)}, nil
}

// input is a request as huma hands it over: the bare body, decoded by us so that every
// fault has a code of ours.
type input struct {
	RawBody []byte
	request *http.Request
}

// getInput is a request without a body.
type getInput struct{ request *http.Request }

// Resolve implements huma.Resolver.
func (in *input) Resolve(ctx huma.Context) []error {
	in.request, _ = humago.Unwrap(ctx)
	return nil
}

// Resolve implements huma.Resolver.
func (in *getInput) Resolve(ctx huma.Context) []error {
	in.request, _ = humago.Unwrap(ctx)
	return nil
}

// output is a finished reply.
type output struct {
	Status      int
	ContentType string `header:"Content-Type"`
	RetryAfter  string `header:"Retry-After"`
	ETag        string `header:"ETag"`
	Challenge   string `header:"WWW-Authenticate"`
	Body        []byte
}

// serve registers one operation: a body of type In, a reply of type Out, every error a
// problem document.
func serve[In, Out any](s *Service, a huma.API, id, method, path, summary string,
	fn func(context.Context, call, *http.Request, In) (message, error),
) {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary,
		MaxBodyBytes: api.MaxBody, SkipValidateBody: true, Responses: responses[Out](a),
	}
	run := func(ctx context.Context, r *http.Request, body []byte) *output {
		c := s.callOf(r, time.Now())
		ctx, cancel := context.WithDeadline(ctx, c.deadline)
		defer cancel()
		in, err := decode[In](method, body)
		var m message
		if err == nil {
			m, err = fn(ctx, c, r, in)
		}
		if err != nil {
			m = s.refusal(ctx, id, err)
		}
		return &output{
			Status: m.status, Body: m.body, ContentType: m.header.Get("Content-Type"),
			RetryAfter: m.header.Get("Retry-After"), ETag: m.header.Get("ETag"),
			Challenge: m.header.Get("WWW-Authenticate"),
		}
	}
	if method == http.MethodGet {
		huma.Register(a, op, func(ctx context.Context, in *getInput) (*output, error) { return run(ctx, in.request, nil), nil })
		return
	}
	op.RequestBody = &huma.RequestBody{Required: true, Content: content[In](a, contentJSON)}
	huma.Register(a, op, func(ctx context.Context, in *input) (*output, error) { return run(ctx, in.request, in.RawBody), nil })
}

func content[T any](a huma.API, contentType string) map[string]*huma.MediaType {
	schema := huma.SchemaFromType(a.OpenAPI().Components.Schemas, reflect.TypeFor[T]())
	return map[string]*huma.MediaType{contentType: {Schema: schema}}
}

// responses describes what an operation answers.
func responses[Out any](a huma.API) map[string]*huma.Response {
	good, status := &huma.Response{Description: "OK", Content: content[Out](a, contentJSON)}, "200"
	if reflect.TypeFor[Out]() == reflect.TypeFor[none]() {
		good, status = &huma.Response{Description: "Done"}, "204"
	}
	return map[string]*huma.Response{
		status:    good,
		"default": {Description: "A problem, with its code", Content: content[api.Problem](a, contentProblem)},
	}
}

// decode reads a JSON body. Unknown fields are left to newer versions; everything else that
// does not fit is an error that names its place.
func decode[In any](method string, data []byte) (In, error) {
	var in In
	if method == http.MethodGet {
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
	return message{status: http.StatusOK, header: http.Header{"Content-Type": {contentJSON}}, body: body}, nil
}

// write sends the message.
func (m message) write(w http.ResponseWriter) {
	for _, name := range []string{"Content-Type", "Retry-After", "ETag", "WWW-Authenticate"} {
		if v := m.header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(m.status)
	_, _ = w.Write(m.body) // the client has gone; there is nobody to tell
}
