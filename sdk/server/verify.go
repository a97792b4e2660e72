package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// What Verify answers besides the status, for the proxy that asked.
const (
	// HeaderCode is why a request is refused, HeaderServer the URL of the server that its session is
	// locked to, if that is known.
	HeaderCode   = "Berth-Code"
	HeaderServer = "Berth-Server"
	// HeaderSubject, HeaderSession, HeaderOrg and HeaderScope are of the token, for the application behind
	// the proxy.
	HeaderSubject = "Berth-Subject"
	HeaderSession = "Berth-Session"
	HeaderOrg     = "Berth-Org"
	HeaderScope   = "Berth-Scope"
)

// Verify judges the request of a proxy that stands before an application which has no lock of its own,
// and passes the headers of each request on: as nginx does for auth_request, or Envoy for ext_authz. 200
// says that it may be served. Refused are, as Lock does, 401 with WWW-Authenticate, and all else as 403
// with HeaderCode, HeaderServer and Retry-After, for nginx passes no other status on; with the query
// style=direct the very answer of Lock, which Envoy sends to the client.
func (a *Agent) Verify() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, refusal := a.permit(r, time.Now())
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		if refusal != nil && a.cfg.Shadow {
			a.shadow(r, refusal)
			refusal = nil
		}
		switch {
		case refusal == nil:
			named(h, claims)
			w.WriteHeader(http.StatusOK)
		case r.URL.Query().Get("style") == "direct", refusal.Code.Status() == http.StatusUnauthorized:
			h.Set(HeaderCode, string(refusal.Code))
			a.refuse(w, refusal)
		default:
			a.metrics.refused.WithLabelValues(string(refusal.Code)).Inc()
			h.Set(HeaderCode, string(refusal.Code))
			if refusal.Server != nil {
				h.Set(HeaderServer, refusal.Server.URL)
			}
			if refusal.RetryAfter > 0 {
				h.Set("Retry-After", strconv.Itoa(refusal.RetryAfter))
			}
			w.WriteHeader(http.StatusForbidden)
		}
	})
}

// named names who a token is of. What a header cannot hold is left out.
func named(h http.Header, c *api.AccessClaims) {
	if c == nil {
		return
	}
	for name, value := range map[string]string{HeaderSubject: c.Subject, HeaderSession: c.SessionID, HeaderOrg: c.Org, HeaderScope: c.Scope} {
		if value != "" && printable(value) {
			h.Set(name, value)
		}
	}
}

// printable reports whether a text is what a header can hold as it is.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
