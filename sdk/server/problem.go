package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/berthhq/berth/tokens/api"
)

// refuse answers a request that the lock does not let through.
func (a *Agent) refuse(w http.ResponseWriter, err *api.Error) {
	a.metrics.refused.WithLabelValues(string(err.Code)).Inc()
	if err.Code.Status() == http.StatusUnauthorized {
		challenge := `Bearer error="invalid_token"`
		if errors.Is(err, errNoToken) {
			challenge = "Bearer" // RFC 6750 section 3.1: no error code where nothing was tried
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
	writeProblem(w, err)
}

// WriteProblem answers as the lock does where it refuses, for middleware inside it: with a problem document of RFC 9457, which
// no cache keeps, and with Retry-After where err has one, or its code needs one.
func WriteProblem(w http.ResponseWriter, err *api.Error) { writeProblem(w, err) }

// writeProblem answers with a problem document, RFC 9457. No refusal may be kept by a cache:
// the next request can fare otherwise.
func writeProblem(w http.ResponseWriter, err *api.Error) {
	writeRefusal(w, err, "application/problem+json", err.Problem())
}

// oauthError is an error of RFC 6749 section 5.2.
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// writeOAuthError answers as the paths under /oauth do.
func writeOAuthError(w http.ResponseWriter, err *api.Error) {
	name := "invalid_request"
	if err.Code.Status() == http.StatusServiceUnavailable {
		name = "temporarily_unavailable"
	}
	writeRefusal(w, err, "application/json", oauthError{Error: name, Description: err.Detail})
}

func writeRefusal(w http.ResponseWriter, err *api.Error, contentType string, document any) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	status := err.Code.Status()
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests || err.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(max(err.RetryAfter, 1)))
	}
	w.WriteHeader(status)
	// An error of Encode is the client's: it has gone.
	_ = json.NewEncoder(w).Encode(document)
}

// unavailable is a 503 whose cause is not sent.
func unavailable(detail string, cause error) *api.Error {
	return &api.Error{Code: api.CodeUnavailable, Detail: detail, Cause: cause, RetryAfter: 1}
}
