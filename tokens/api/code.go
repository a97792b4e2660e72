package api

// Code says what went wrong, for programs: a Problem's code.
type Code string

// The codes.
const (
	CodeInvalidRequest         Code = "invalid_request"
	CodeInvalidCredentials     Code = "invalid_credentials"
	CodeInvalidToken           Code = "invalid_token"
	CodeTokenExpired           Code = "token_expired"
	CodeRefreshSuperseded      Code = "refresh_superseded"
	CodeRefreshReused          Code = "refresh_reused"
	CodeSessionRevoked         Code = "session_revoked"
	CodeSessionMoved           Code = "session_moved"
	CodeSessionExpired         Code = "session_expired"
	CodeSessionConflict        Code = "session_conflict"
	CodeLockedElsewhere        Code = "locked_elsewhere"
	CodeServerUnconfirmed      Code = "server_unconfirmed"
	CodeNoHealthyServer        Code = "no_healthy_server"
	CodeNoAllowedRegion        Code = "no_allowed_region"
	CodeNoRegionInBounds       Code = "no_region_in_bounds"
	CodeRateLimited            Code = "rate_limited"
	CodeTooLarge               Code = "too_large"
	CodeIdempotencyInFlight    Code = "idempotency_in_flight"
	CodeIdempotencyMismatch    Code = "idempotency_mismatch"
	CodeIdempotencyKeyRequired Code = "idempotency_key_required"
	CodeOutcomeUnknown         Code = "outcome_unknown"
	CodeReplicaBehind          Code = "replica_behind"
	CodeUnavailable            Code = "unavailable"
)

// Status returns the HTTP status that goes with the code.
func (c Code) Status() int {
	switch c {
	case CodeInvalidRequest, CodeIdempotencyKeyRequired:
		return 400
	case CodeInvalidCredentials, CodeInvalidToken, CodeTokenExpired, CodeRefreshReused,
		CodeSessionRevoked, CodeSessionExpired:
		return 401
	case CodeRefreshSuperseded, CodeSessionMoved, CodeSessionConflict,
		CodeIdempotencyInFlight, CodeOutcomeUnknown:
		return 409
	case CodeTooLarge:
		return 413
	case CodeLockedElsewhere:
		return 421
	case CodeIdempotencyMismatch:
		return 422
	case CodeRateLimited:
		return 429
	case CodeServerUnconfirmed, CodeNoHealthyServer, CodeNoAllowedRegion,
		CodeNoRegionInBounds, CodeReplicaBehind, CodeUnavailable:
		return 503
	default:
		return 500
	}
}

// Title returns the code in words, the same for every occurrence.
func (c Code) Title() string {
	if t, ok := titles[c]; ok {
		return t
	}
	return "Internal error"
}

var titles = map[Code]string{
	CodeInvalidRequest:         "The request is not valid",
	CodeInvalidCredentials:     "The user name or password is not right",
	CodeInvalidToken:           "The token is not valid",
	CodeTokenExpired:           "The token has expired",
	CodeRefreshSuperseded:      "The refresh token was just replaced; use the newest one",
	CodeRefreshReused:          "The refresh token was used before; log in again",
	CodeSessionRevoked:         "The session was ended; log in again",
	CodeSessionMoved:           "The session has moved to another region",
	CodeSessionExpired:         "The session has reached its end; log in again",
	CodeSessionConflict:        "The session was changed elsewhere at the same time",
	CodeLockedElsewhere:        "The session is locked to another server",
	CodeServerUnconfirmed:      "The server's failure is not confirmed; try again",
	CodeNoHealthyServer:        "No healthy server can take the session; try again",
	CodeNoAllowedRegion:        "No region that may hold the organization's data is available; try again",
	CodeNoRegionInBounds:       "No region is within the organization's bound of distance",
	CodeRateLimited:            "Too many requests; try again later",
	CodeTooLarge:               "The request is too large",
	CodeIdempotencyInFlight:    "A request with this idempotency key is in progress",
	CodeIdempotencyMismatch:    "The idempotency key was used for another request",
	CodeIdempotencyKeyRequired: "The request needs an Idempotency-Key",
	CodeOutcomeUnknown:         "The outcome of an earlier request with this key is unknown",
	CodeReplicaBehind:          "The replica has not caught up; try again",
	CodeUnavailable:            "The service is not available; try again",
}

// Error is a failed call: the code a client branches on and a sentence for a person.
// It is the one typed error of the HTTP edge.
type Error struct {
	Code Code
	// Detail says what happened this time and what to do; it holds no secret.
	Detail string
	// Server is the right server, with CodeLockedElsewhere.
	Server *Server
	// RetryAfter, in seconds, is the Retry-After header, which 429 and 503 always have: 0 means 1 there.
	RetryAfter int
	// Fields names the faulty fields, with CodeInvalidRequest.
	Fields []FieldError
	// Cause is what was wrong inside; it is logged, never sent.
	Cause error
}

func (e *Error) Error() string {
	s := string(e.Code)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Problem returns the error as it is sent.
func (e *Error) Problem() Problem {
	return Problem{
		Title: e.Code.Title(), Status: e.Code.Status(), Detail: e.Detail, Code: string(e.Code),
		Server: e.Server, Errors: e.Fields,
	}
}
