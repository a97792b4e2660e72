package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/rs/cors"

	"github.com/berthhq/berth/tokens/api"
)

// CORS is which web pages may call the server from a browser: a page of the application stands at one
// origin, and its requests go to the regional server that its session is locked to, at another.
type CORS struct {
	// Origins are those of the pages, such as https://app.example.com. At least one; * for all is refused.
	Origins []string
	// Headers are request headers of the API's own, beside those that berth's clients send; Expose
	// response headers that pages may read, beside berth's.
	Headers, Expose []string
	// Credentials lets browsers send cookies.
	Credentials bool
	// MaxAge is how long a browser remembers the answer to a preflight; 0: 10 min.
	MaxAge time.Duration
}

// What berth's clients send, and read.
var (
	corsHeaders = []string{
		"Authorization", "Content-Type", HeaderLock, "Berth-Bookmark", api.HeaderDeadline, "Idempotency-Key", "If-None-Match",
	}
	corsExposed = []string{"Berth-Bookmark", "Berth-Code", "Berth-Server", "Retry-After", "ETag", "Idempotency-Replayed", "WWW-Authenticate"}
)

// Handler answers preflights itself, for they carry no token, and lets pages of the origins read what
// next answers: it stands before Lock and TokenPaths. It fails if an origin is none.
func (c CORS) Handler(next http.Handler) (http.Handler, error) {
	if len(c.Origins) == 0 {
		return nil, errors.New("configure CORS: no origins")
	}
	for _, o := range c.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Scheme+"://"+u.Host != o {
			return nil, fmt.Errorf("configure CORS: origin %q: want http(s)://host without a path", o)
		}
	}
	age := 10 * time.Minute
	if c.MaxAge > 0 {
		age = c.MaxAge
	}
	return cors.New(cors.Options{
		AllowedOrigins: c.Origins, AllowCredentials: c.Credentials, MaxAge: int(age.Seconds()),
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: slices.Concat(corsHeaders, c.Headers), ExposedHeaders: slices.Concat(corsExposed, c.Expose),
	}).Handler(next), nil
}
