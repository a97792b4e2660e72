package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

// ErrRefused says that a probe's connection was refused: nobody listens there.
var ErrRefused = errors.New("connection refused")

// ProberConfig says how probes are made.
type ProberConfig struct {
	// Timeout bounds one probe; 0: 1 s.
	Timeout time.Duration
	// Roots are the authorities that certificates are checked against; nil: the system's.
	// There is no way not to check them.
	Roots *x509.CertPool
	// Dial opens a connection to host:port; nil: a net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Bounds of what is read of a health URL's answer.
const (
	maxProbeBody   = 4 << 10
	maxProbeHeader = 64 << 10
)

// Prober asks servers whether they are alive. It keeps no connection open: a new one is part
// of the question; and it asks directly, for a proxy that refuses is no server that does. It is safe for concurrent use.
type Prober struct {
	client  *http.Client
	timeout time.Duration
}

// NewProber returns a prober.
func NewProber(c ProberConfig) *Prober {
	return &Prober{
		timeout: cmp.Or(c.Timeout, time.Second),
		client: &http.Client{
			Transport: &http.Transport{
				DisableKeepAlives: true, DialContext: c.Dial,
				TLSClientConfig:        &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
				MaxResponseHeaderBytes: maxProbeHeader,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Probe asks a health URL once. nil means a 2xx answer within the timeout and ctx; a redirect
// is none. An error that wraps ErrRefused says that nobody listens.
func (p *Prober) Probe(ctx context.Context, healthURL string) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, healthURL, nil)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	req.Header.Set("User-Agent", "berth-probe")
	resp, err := p.client.Do(req)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("probe: %w: %w", ErrRefused, err)
	case err != nil:
		return fmt.Errorf("probe: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its bound already
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("probe %s: status %d", healthURL, resp.StatusCode)
	}
	// A server that begins to answer well and cannot go on is not well.
	if _, err := io.CopyN(io.Discard, resp.Body, maxProbeBody); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("probe %s: read answer: %w", healthURL, err)
	}
	return nil
}
