package api

// The methods of a token service on rpc.tokens.<jurisdiction>.<region>.<method>. All but
// MethodStart are an HTTP request passed on: the request's data is the body, its headers
// are the client's and the Header… constants; the reply's data is the body, HeaderStatus
// the status.
const (
	MethodStart    = "start"
	MethodLogin    = "login"
	MethodClosest  = "closest"
	MethodRefresh  = "refresh"
	MethodLogout   = "logout"
	MethodServers  = "servers"
	MethodOrg      = "org"
	MethodToken    = "token"
	MethodRevoke   = "revoke"
	MethodMetadata = "metadata"
	MethodJWKS     = "jwks"
)

// Route is one token path: its HTTP form and its method over NATS.
type Route struct {
	RPC, Method, Path string
}

// Routes lists every token path that a regional server passes on.
func Routes() []Route {
	return []Route{
		{MethodLogin, "POST", "/v1/login"},
		{MethodClosest, "GET", "/v1/closestToMe"},
		{MethodRefresh, "POST", "/v1/refresh"},
		{MethodLogout, "POST", "/v1/logout"},
		{MethodServers, "GET", "/v1/servers"},
		{MethodOrg, "GET", "/v1/orgs/{org}"},
		{MethodToken, "POST", "/oauth/token"},
		{MethodRevoke, "POST", "/oauth/revoke"},
		{MethodMetadata, "GET", "/.well-known/oauth-authorization-server"},
		{MethodJWKS, "GET", "/.well-known/jwks.json"},
	}
}

// Headers of a request passed on over NATS.
const (
	// HeaderStatus is the HTTP status of a reply.
	HeaderStatus = "Berth-Status"
	// HeaderDeadline is the absolute time, RFC 3339 with nanoseconds, after which nothing
	// is answered or written (V3).
	HeaderDeadline = "Berth-Deadline"
	// HeaderHops counts how often token services have passed the request on, at most
	// MaxHops.
	HeaderHops = "Berth-Hops"
	// HeaderClientAddress is the client's network address as the first hop saw it.
	HeaderClientAddress = "Berth-Client-Address"
	// HeaderFloor is the lowest epoch "<number>.<region>" that the passing server accepts
	// for the session; nothing below it is issued (V10).
	HeaderFloor = "Berth-Lock-Floor"
	// HeaderInstance is the token service that gave a reply. What remembers sessions, such as
	// MethodRefresh, can be asked of it alone: InstanceSubject.
	HeaderInstance = "Berth-Instance"
	// HeaderOrg is the organization that a look-up is for: the path of MethodOrg, the query of MethodClosest.
	HeaderOrg = "Berth-Org"
	// HeaderArrived is the region where the client's request arrived.
	HeaderArrived = "Berth-Arrived"
)

// InstanceSubject returns the subject of a method at one instance of a region's token services,
// from the subject at which they share the requests.
func InstanceSubject(subject, instance string) string { return subject + "." + instance }

// Affine reports whether a method's requests are better answered by the instance that has
// answered the session's last.
func Affine(method string) bool { return method == MethodRefresh || method == MethodToken }

// MaxHops is how often a request may be passed on between token services.
const MaxHops = 2

// MaxBody is the size in bytes that a request's body may have.
const MaxBody = 64 << 10
