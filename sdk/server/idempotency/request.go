package idempotency

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sdk/server"
	"github.com/berthhq/berth/tokens/api"
)

// MaxKey is how long a key may be, in characters.
const MaxKey = 255

var errKeyRequired = &api.Error{
	Code:   api.CodeIdempotencyKeyRequired,
	Detail: `send a header Idempotency-Key, such as "8e03978e-40d5-43dd-bc93-6894a57f9324": new for each request, the same for its retries`,
}

// keyOf returns what the client has chosen, empty if nothing: a string of RFC 8941, or the same bare, as long as it has none
// of the characters that quoting is for.
func keyOf(h http.Header) (string, *api.Error) {
	values := h[HeaderKey]
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", badKey("the request carries more than one")
	}
	text := strings.Trim(values[0], " ")
	if strings.HasPrefix(text, `"`) {
		var ok bool
		if text, ok = unquote(text); !ok {
			return "", badKey(`want a string of RFC 8941 without parameters, such as "8e03978e"`)
		}
	} else if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"\,;`, r) }) {
		return "", badKey(`without quotes it may hold visible ASCII but for " \ , and ;`)
	}
	if text == "" || len(text) > MaxKey {
		return "", badKey(fmt.Sprintf("it has %d characters: want 1 to %d", len(text), MaxKey))
	}
	return text, nil
}

func badKey(detail string) *api.Error {
	return &api.Error{Code: api.CodeInvalidRequest, Detail: HeaderKey + ": " + detail}
}

// unquote reads a string of RFC 8941 section 3.3.3.
func unquote(s string) (text string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), i == len(s)-1
		case c == '\\':
			if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", false
			}
			b.WriteByte(s[i])
		case c < ' ' || c > '~':
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// SessionScope returns the scope of a request that the lock has let through: its session. Of a session without an
// organization the entry is copied to every fallback region; with one it stays in the region, for an access token does not
// say where its organization's data may be: an application that knows gives a Scope of its own.
func SessionScope(r *http.Request) (Scope, error) {
	claims, ok := server.ClaimsFrom(r.Context())
	if !ok || claims.SessionID == "" {
		return Scope{}, &api.Error{Code: api.CodeInvalidToken, Detail: "an Idempotency-Key belongs to a session, and this request has none"}
	}
	s := Scope{Jurisdiction: events.GlobalJurisdiction, Holder: claims.SessionID}
	if claims.Org != "" {
		s.Jurisdiction = events.LocalJurisdiction
	}
	return s, nil
}

// read returns the name of the request's key, its body and its fingerprint.
func (g *Guard) read(w http.ResponseWriter, r *http.Request, text string) (key Key, body []byte, fingerprint string, refusal *api.Error) {
	scope, err := g.cfg.Scope(r)
	if err == nil && (!events.ValidToken(scope.Jurisdiction) || scope.Holder == "") {
		err = fmt.Errorf("scope of a key: jurisdiction %q, and a holder of %d bytes", scope.Jurisdiction, len(scope.Holder))
	}
	if err != nil {
		if !errors.As(err, &refusal) {
			refusal = unavailable("whose this idempotency key is cannot be told now", err)
		}
		return key, nil, "", refusal
	}
	if body, refusal = g.readBody(w, r); refusal != nil {
		return key, nil, "", refusal
	}
	fingerprint = digest([]byte(r.Method), []byte(r.URL.EscapedPath()), []byte(r.URL.RawQuery), body)
	return KeyOf(scope, text), body, fingerprint, nil
}

// readBody reads the whole body, of which nothing reaches the handler before it is known whether it runs.
func (g *Guard) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *api.Error) {
	tooLarge := &api.Error{Code: api.CodeTooLarge, Detail: fmt.Sprintf("the body has more than %d bytes", g.cfg.MaxBody)}
	if r.ContentLength > g.cfg.MaxBody {
		return nil, tooLarge
	}
	if r.Body == nil {
		return nil, nil
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, defaultMaxReply)) + bytes.MinRead)
	}
	_, err := io.Copy(&buf, http.MaxBytesReader(w, r.Body, g.cfg.MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if err != nil {
		return nil, &api.Error{Code: api.CodeInvalidRequest, Detail: "the body could not be read to its end", Cause: err}
	}
	return buf.Bytes(), nil
}

func unavailable(detail string, cause error) *api.Error {
	return &api.Error{Code: api.CodeUnavailable, Detail: detail, Cause: cause, RetryAfter: 1}
}
