package idempotency

import (
	"bytes"
	"net/http"
	"slices"
	"time"
)

// KeptHeaders returns the headers of a reply that are kept by default. Cookies are not: they may be older than the client's
// own by the time of a replay.
func KeptHeaders() []string {
	return []string{
		"Berth-Bookmark", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Location",
		"Content-Type", "Etag", "Last-Modified", "Link", "Location", "Retry-After", "Vary",
	}
}

// maxKeptHeaders bounds the headers of a reply that is kept, in bytes.
const maxKeptHeaders = 16 << 10

// recorder holds back a reply until it is kept, or until it is too long for that, or the handler flushes it.
type recorder struct {
	w    http.ResponseWriter
	max  int
	kept []string
	// status is 0 until the handler has said it; header are the headers to keep, as they were then.
	status int
	header http.Header
	body   bytes.Buffer
	// passing says that the client has got all of it so far, tooLong that there is more than is kept.
	passing, tooLong bool
}

// Header implements http.ResponseWriter.
func (rec *recorder) Header() http.Header { return rec.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (rec *recorder) WriteHeader(status int) {
	switch {
	case status >= 100 && status < 200 && status != http.StatusSwitchingProtocols:
		rec.w.WriteHeader(status) // informational
		return
	case rec.status != 0:
		return
	}
	rec.status, rec.header = status, http.Header{}
	size := 0
	for name, values := range rec.w.Header() {
		if !slices.Contains(rec.kept, name) {
			continue
		}
		rec.header[name] = slices.Clone(values)
		for _, v := range values {
			size += len(name) + len(v)
		}
	}
	if size > maxKeptHeaders {
		rec.tooLong = true
		rec.pass()
	}
}

// Write implements http.ResponseWriter.
func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	if !bodyAllowed(rec.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if !rec.tooLong && rec.body.Len()+len(p) > rec.max {
		rec.tooLong = true
		rec.pass()
		rec.body = bytes.Buffer{}
	}
	if !rec.tooLong {
		rec.body.Write(p)
	}
	if rec.passing {
		return rec.w.Write(p)
	}
	return len(p), nil
}

func bodyAllowed(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// pass lets the client have what was held back, and what follows.
func (rec *recorder) pass() {
	if rec.passing {
		return
	}
	rec.passing = true
	rec.w.WriteHeader(rec.status)
	if rec.body.Len() > 0 {
		_, _ = rec.w.Write(rec.body.Bytes()) // an error is the client's: it has gone
	}
}

// FlushError implements what http.ResponseController looks for: a handler that flushes wants the client to have it now.
func (rec *recorder) FlushError() error {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	rec.pass()
	return http.NewResponseController(rec.w).Flush()
}

// Flush implements http.Flusher.
func (rec *recorder) Flush() { _ = rec.FlushError() }

// SetReadDeadline implements what http.ResponseController looks for.
func (rec *recorder) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(rec.w).SetReadDeadline(t)
}

// SetWriteDeadline implements what http.ResponseController looks for.
func (rec *recorder) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(rec.w).SetWriteDeadline(t)
}

// reply returns what the client has got, or is about to get.
func (rec *recorder) reply() *Reply {
	r := &Reply{Status: rec.status, Header: rec.header, Body: rec.body.Bytes()}
	if len(r.Body) > 0 && r.Header["Content-Type"] == nil && r.Header["Content-Encoding"] == nil {
		r.Header.Set("Content-Type", http.DetectContentType(r.Body)) // as net/http does for the client
	}
	return r
}
