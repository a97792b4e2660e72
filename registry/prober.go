package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"
)

// ProberConfig says how probes are made.
type ProberConfig struct {
	// Timeout bounds one probe; 0: 1 s.
	Timeout time.Duration
	// TLS holds what certificates are checked against; nil: the system's roots.
	TLS *tls.Config
}

// maxProbeBody is how many bytes of a health URL's answer are read.
const maxProbeBody = 4 << 10

// Prober asks servers whether they are alive. It keeps no connection open: a new one is part
// of the question. It is safe for concurrent use.
type Prober struct {
	client  *http.Client
	timeout time.Duration
}

// NewProber returns a prober.
func NewProber(c ProberConfig) *Prober {
	timeout := cmp.Or(c.Timeout, time.Second)
	return &Prober{timeout: timeout, client: &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: c.TLS, Proxy: http.ProxyFromEnvironment,
			MaxResponseHeaderBytes: maxProbeBody,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
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
	_, _ = io.CopyN(io.Discard, resp.Body, maxProbeBody)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("probe: status %d", resp.StatusCode)
	}
	return nil
}

// ErrRefused says that a probe's connection was refused: nobody listens there.
var ErrRefused = errors.New("connection refused")
