// Package api promises the contract between clients and token services: the requests and
// replies of /v1 and /oauth, the claims of the tokens, their verification, and the codes of
// every error.
//
// It imports nothing of berth, so that clients link no server code.
package api

import "time"

// NoticeServerChanged is what a user is told when the session moved to another server.
const NoticeServerChanged = "Your primary server has changed. Any missing data will be synced within 5 minutes."

// NoticeTemporaryRegion is what a user is told whose session is outside of the organization's home region.
const NoticeTemporaryRegion = "Your home region is taking a short break, so you are connected to another one. Your work is safe: any missing data will be synced within 5 minutes, and you will be taken back once your home region is available again."

// NoticeHomeRegionRestored is what a user is told whose session is back in the home region.
const NoticeHomeRegionRestored = "You are back in your home region. Any missing data will be synced within 5 minutes."

// Codes of Notice.
const (
	NoticeCodeServerChanged      = "server_changed"
	NoticeCodeTemporaryRegion    = "temporary_region"
	NoticeCodeHomeRegionRestored = "home_region_restored"
)

// SyncedWithin is the bound that the notices name.
const SyncedWithin = 5 * time.Minute

// LoginRequest asks for a new session, by a name of the users file or an upstream ID token.
type LoginRequest struct {
	Username string `json:"username,omitempty" maxLength:"256" doc:"name in the users file"`
	Password string `json:"password,omitempty" maxLength:"1024" doc:"password of that user"`
	IDToken  string `json:"idToken,omitempty" maxLength:"16384" doc:"OIDC ID token of the upstream issuer, instead of username and password"`
	Org      string `json:"org,omitempty" maxLength:"64" pattern:"^[a-z0-9_-]*$" doc:"organization the session belongs to"`
}

// StartRequest asks for a session of a user that the application has authenticated.
type StartRequest struct {
	Subject  string         `json:"subject" doc:"the user, claim sub"`
	Org      string         `json:"org,omitempty" doc:"organization, claim org"`
	Scope    string         `json:"scope,omitempty" doc:"space-separated scopes, claim scope"`
	Claims   map[string]any `json:"claims,omitempty" doc:"the application's own claims; none of berth's names"`
	ClientID string         `json:"clientId,omitempty" doc:"OAuth client, claim client_id"`
	// ClientAddress is the user's network address as the application sees it, to place the session by.
	ClientAddress string `json:"clientAddress,omitempty" doc:"the user's network address"`
}

// RefreshRequest redeems a refresh token. Only the token is required.
type RefreshRequest struct {
	RefreshToken string `json:"refreshToken" minLength:"1" maxLength:"16384" doc:"the session's current refresh token"`
	// ClosestServerID is what closestToMe answered; absent or unknown it is ignored.
	ClosestServerID string `json:"closestServerId,omitempty" maxLength:"64" doc:"the server that closestToMe named"`
	// CriticalTaskInProgress blocks a move while the server lives, within a bound.
	CriticalTaskInProgress bool `json:"criticalTaskInProgress,omitempty" doc:"true while a critical task is in progress: the session stays"`
	// RTTMs maps servers to round-trip times in milliseconds that the client measured.
	RTTMs map[string]float64 `json:"rttMs,omitempty" maxProperties:"64" doc:"measured round-trip times in milliseconds by server id; they replace those told before, and count for a day"`
	// FailedServerID names the server that the client could not reach.
	FailedServerID string `json:"failedServerId,omitempty" maxLength:"64" doc:"the server that the client failed to reach"`
	// Bookmark is the position that the session's reads must have reached.
	Bookmark string `json:"bookmark,omitempty" maxLength:"1024" doc:"the position that the session's reads must have reached"`
}

// LogoutRequest ends a session.
type LogoutRequest struct {
	RefreshToken string `json:"refreshToken" minLength:"1" maxLength:"16384" doc:"a refresh token of the session"`
}

// Server is where a session is locked.
type Server struct {
	ID     string `json:"id" doc:"server id"`
	Region string `json:"region" doc:"region of the server"`
	URL    string `json:"url" doc:"base URL of the server"`
}

// Fallback is another way in, for when the locked server does not answer.
type Fallback struct {
	Region string `json:"region" doc:"region of the way in"`
	URL    string `json:"url" doc:"base URL of the token paths there"`
}

// Notice tells the user of a change, in words that calm.
type Notice struct {
	Code                string `json:"code" doc:"server_changed, temporary_region or home_region_restored"`
	Message             string `json:"message" doc:"text for the user"`
	SyncedWithinSeconds int    `json:"syncedWithinSeconds" doc:"bound of the message in seconds"`
}

// TokensReply answers login, start and refresh. An unrotated one has no refresh token.
type TokensReply struct {
	AccessToken      string     `json:"accessToken" doc:"JWT, RFC 9068"`
	TokenType        string     `json:"tokenType" doc:"always Bearer"`
	ExpiresIn        int        `json:"expiresIn" doc:"life of the access token in seconds"`
	RefreshToken     string     `json:"refreshToken,omitempty" doc:"redeem once"`
	RefreshExpiresIn int        `json:"refreshExpiresIn,omitempty" doc:"life of the refresh token in seconds"`
	SessionID        string     `json:"sessionId" doc:"the session"`
	Server           Server     `json:"server" doc:"the lock: send every request here"`
	AuthURL          string     `json:"authUrl" doc:"base URL of the token paths on the locked server"`
	Fallbacks        []Fallback `json:"fallbacks" doc:"other ways in, best first"`
	ServerChanged    bool       `json:"serverChanged" doc:"the session moved"`
	Decision         string     `json:"decision" enum:"stay,move" doc:"what was decided"`
	Reason           string     `json:"reason" doc:"why"`
	Rotated          bool       `json:"rotated" doc:"false: keep the refresh token you have"`
	Notice           *Notice    `json:"notice,omitempty" doc:"what to tell the user"`
}

// Candidate is a server to measure the distance to.
type Candidate struct {
	ServerID string `json:"serverId"`
	Region   string `json:"region"`
	URL      string `json:"url"`
	ProbeURL string `json:"probeUrl" doc:"a cheap GET to measure the round-trip time with"`
}

// ClosestReply names the server that is closest to the client.
type ClosestReply struct {
	ClosestServerID string      `json:"closestServerId"`
	Region          string      `json:"region"`
	URL             string      `json:"url"`
	Candidates      []Candidate `json:"candidates" doc:"up to three, one a region, nearest first"`
	// Basis is what the answer rests on: rtt, location, geoip or region.
	Basis string `json:"basis" enum:"rtt,location,geoip,region" doc:"what the answer rests on: rtt, what the session of the access token has measured within a day; location, where the client says it is, where that is believed; geoip, where its address is; region, where its request arrived"`
}

// ServersReply lists the active servers of the service's own region.
type ServersReply struct {
	Region  string   `json:"region"`
	Servers []Server `json:"servers"`
}

// OrgReply says where an organization's sessions are. An organization of which nothing is set, or that
// nobody knows, has all regions, the closest as its home.
type OrgReply struct {
	HomeRegion     string   `json:"homeRegion,omitempty" doc:"where sessions are while it can take them"`
	AllowedRegions []string `json:"allowedRegions" doc:"where sessions may be"`
	// URL is of a region that takes sessions now; empty: none of the allowed ones does.
	URL string `json:"url,omitempty" doc:"base URL of the token paths to log in at"`
	// Region is the one that URL leads to.
	Region          string   `json:"region,omitempty" doc:"region of that URL"`
	FallbackRegions []string `json:"fallbackRegions" doc:"other regions that take sessions now, best first"`
}

// Problem is an error as RFC 9457 application/problem+json.
type Problem struct {
	Type   string `json:"type,omitempty"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Code is one of the Code… constants of this package.
	Code string `json:"code"`
	// Server is the right server, with locked_elsewhere.
	Server *Server `json:"server,omitempty"`
	// Errors names the faulty fields, with invalid_request.
	Errors []FieldError `json:"errors,omitempty"`
}

// FieldError says what is wrong with one field of a request.
type FieldError struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}
