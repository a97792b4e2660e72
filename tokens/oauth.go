package tokens

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// oauthReply is a token reply of RFC 6749 section 5.1, with the lock beside it.
type oauthReply struct {
	AccessToken   string      `json:"access_token"`
	TokenType     string      `json:"token_type"`
	ExpiresIn     int         `json:"expires_in"`
	RefreshToken  string      `json:"refresh_token,omitempty"`
	SessionID     string      `json:"session_id"`
	ServerID      string      `json:"server_id"`
	ServerURL     string      `json:"server_url"`
	AuthURL       string      `json:"auth_url"`
	ServerChanged bool        `json:"server_changed"`
	Decision      string      `json:"decision"`
	Reason        string      `json:"reason"`
	Notice        *api.Notice `json:"notice,omitempty"`
}

// oauthError is an error of RFC 6749 section 5.2.
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
	Code        string `json:"code,omitempty"`
}

// oauth registers the standard paths: RFC 6749, 7009, 8414 and 7517.
func (s *Service) oauth(mux *http.ServeMux) {
	mux.HandleFunc("POST /oauth/token", s.serveToken)
	mux.HandleFunc("POST /oauth/revoke", s.serveRevoke)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", s.serveMetadata)
	mux.HandleFunc("GET /.well-known/jwks.json", s.serveJWKS)
}

// serveToken is the refresh grant. The fields of /v1/refresh may stand beside it in snake
// case; a client that knows none of them gets plain rotation on its server.
func (s *Service) serveToken(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		writeOAuthError(w, http.StatusBadRequest, oauthError{Error: "invalid_request", Description: "the form cannot be read"})
		return
	}
	form := r.PostForm
	switch grant := form.Get("grant_type"); {
	case grant == "":
		writeOAuthError(w, http.StatusBadRequest, oauthError{Error: "invalid_request", Description: "grant_type is required"})
		return
	case grant != "refresh_token":
		writeOAuthError(w, http.StatusBadRequest, oauthError{Error: "unsupported_grant_type", Description: "only refresh_token is served here"})
		return
	case form.Get("refresh_token") == "":
		writeOAuthError(w, http.StatusBadRequest, oauthError{Error: "invalid_request", Description: "refresh_token is required"})
		return
	}
	c := s.callOf(r, time.Now())
	ctx, cancel := context.WithDeadline(r.Context(), c.deadline)
	defer cancel()
	m, err := s.serveRefresh(ctx, c, r, api.RefreshRequest{
		RefreshToken: form.Get("refresh_token"), ClosestServerID: form.Get("closest_server_id"),
		CriticalTaskInProgress: form.Get("critical_task_in_progress") == "true",
		FailedServerID:         form.Get("failed_server_id"), Bookmark: form.Get("bookmark"),
	})
	if err != nil {
		m = s.refusal(ctx, "token", err)
	}
	writeOAuth(w, m)
}

// writeOAuth translates a reply of /v1/refresh, ours or another region's.
func writeOAuth(w http.ResponseWriter, m message) {
	if m.status != http.StatusOK {
		var p api.Problem
		_ = json.Unmarshal(m.body, &p) // an unreadable problem is none of the known codes
		status, name := oauthCode(api.Code(p.Code), m.status)
		if retry := m.header.Get("Retry-After"); retry != "" && status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", retry)
		}
		if status == http.StatusMisdirectedRequest {
			p.Title = p.Detail // which says where to go
		}
		writeOAuthError(w, status, oauthError{Error: name, Description: p.Title, Code: p.Code})
		return
	}
	var t api.TokensReply
	if err := json.Unmarshal(m.body, &t); err != nil {
		writeOAuthError(w, http.StatusServiceUnavailable, oauthError{Error: "temporarily_unavailable"})
		return
	}
	writeJSON(w, http.StatusOK, oauthReply{
		AccessToken: t.AccessToken, TokenType: t.TokenType, ExpiresIn: t.ExpiresIn, RefreshToken: t.RefreshToken,
		SessionID: t.SessionID, ServerID: t.Server.ID, ServerURL: t.Server.URL, AuthURL: t.AuthURL,
		ServerChanged: t.ServerChanged, Decision: t.Decision, Reason: t.Reason, Notice: t.Notice,
	})
}

// oauthCode maps our codes to RFC 6749's: what may pass is temporarily_unavailable, what
// cannot is invalid_grant.
func oauthCode(code api.Code, status int) (int, string) {
	switch code {
	case api.CodeRefreshReused, api.CodeSessionRevoked, api.CodeSessionExpired, api.CodeTokenExpired,
		api.CodeInvalidToken, api.CodeInvalidCredentials:
		return http.StatusBadRequest, "invalid_grant"
	case api.CodeInvalidRequest, api.CodeTooLarge:
		return http.StatusBadRequest, "invalid_request"
	case api.CodeLockedElsewhere:
		return http.StatusMisdirectedRequest, "invalid_request"
	default:
		if status != http.StatusTooManyRequests {
			status = http.StatusServiceUnavailable
		}
		return status, "temporarily_unavailable"
	}
}

// serveRevoke ends a session, RFC 7009: a token that is not valid is as good as revoked. An
// access token is not taken for one: its session would live on.
func (s *Service) serveRevoke(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.PostForm.Get("token") == "" {
		writeOAuthError(w, http.StatusBadRequest, oauthError{Error: "invalid_request", Description: "token is required"})
		return
	}
	c := s.callOf(r, time.Now())
	ctx, cancel := context.WithDeadline(r.Context(), c.deadline)
	defer cancel()
	token := r.PostForm.Get("token")
	if _, err := s.verify.Access(token, time.Now()); err == nil {
		writeOAuthError(w, http.StatusBadRequest, oauthError{Error: "unsupported_token_type", Description: "send the refresh token: it ends the session, and its access tokens with it"})
		return
	}
	m, err := s.serveLogout(ctx, c, r, api.LogoutRequest{RefreshToken: token})
	if err != nil {
		m = s.refusal(ctx, "revoke", err)
	}
	if m.status >= http.StatusInternalServerError {
		w.Header().Set("Retry-After", "1")
		writeOAuthError(w, http.StatusServiceUnavailable, oauthError{Error: "temporarily_unavailable"})
		return
	}
	w.WriteHeader(http.StatusOK)
}

// metadata is the document of RFC 8414.
type metadata struct {
	Issuer              string   `json:"issuer"`
	TokenEndpoint       string   `json:"token_endpoint"`
	RevocationEndpoint  string   `json:"revocation_endpoint"`
	JWKSURI             string   `json:"jwks_uri"`
	GrantTypes          []string `json:"grant_types_supported"`
	ResponseTypes       []string `json:"response_types_supported"`
	TokenAuthMethods    []string `json:"token_endpoint_auth_methods_supported"`
	RevocationAuthMeths []string `json:"revocation_endpoint_auth_methods_supported"`
}

func (s *Service) serveMetadata(w http.ResponseWriter, _ *http.Request) {
	base := strings.TrimSuffix(s.cfg.Issuer, "/")
	writeJSON(w, http.StatusOK, metadata{
		Issuer: s.cfg.Issuer, TokenEndpoint: base + "/oauth/token", RevocationEndpoint: base + "/oauth/revoke",
		JWKSURI: base + "/.well-known/jwks.json", GrantTypes: []string{"refresh_token"}, ResponseTypes: []string{},
		TokenAuthMethods: []string{"none"}, RevocationAuthMeths: []string{"none"},
	})
}

func (s *Service) serveJWKS(w http.ResponseWriter, r *http.Request) {
	document, err := s.public.known.Load().set.MarshalJSON()
	if err != nil {
		s.log.LogAttrs(r.Context(), slog.LevelError, "key set not encoded", slog.String("error", err.Error()))
		problem(unavailable("the keys could not be listed", nil)).write(w)
		return
	}
	w.Header().Set("Content-Type", contentJSON)
	w.Header().Set("Cache-Control", "public, max-age=30")
	_, _ = w.Write(document)
}

func writeOAuthError(w http.ResponseWriter, status int, e oauthError) { writeJSON(w, status, e) }

func writeJSON(w http.ResponseWriter, status int, v any) {
	m, err := success(v)
	if err != nil {
		m = problem(asError(err))
	} else {
		m.status = status
	}
	m.write(w)
}
