package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/berthhq/berth/events"
)

// PrometheusConfig says which Prometheus to ask, or another system with its HTTP API.
type PrometheusConfig struct {
	// URL is its base: /api/v1/query is added.
	URL string
	// ServerLabel is the label that holds the servers' ids. Empty: server.
	ServerLabel string
	// TokenFile holds the bearer token, read for each request, for it may be renewed. Empty: none.
	TokenFile string
	// CAFile holds the certificates, as PEM, that the system's must descend from. Empty: the
	// machine's.
	CAFile string
}

// Bounds of what is read, in bytes: an answer about 20 000 servers is well below.
const (
	maxAnswer = 16 << 20
	maxToken  = 64 << 10
	maxWords  = 500
)

// Times of the connection; how long a whole query may take is the caller's to say.
const (
	dialTimeout = 3 * time.Second
	idleTimeout = time.Minute
)

// Prometheus is a System.
type Prometheus struct {
	api   v1.API
	label model.LabelName
}

var _ System = (*Prometheus)(nil)

// NewPrometheus reads the files that c names and returns a client that has not connected yet.
func NewPrometheus(c PrometheusConfig) (*Prometheus, error) {
	u, err := url.Parse(c.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("prometheus %q: want http(s)://host", c.URL)
	}
	label := model.LabelName("server")
	if c.ServerLabel != "" {
		label = model.LabelName(c.ServerLabel)
	}
	if !model.LegacyValidation.IsValidLabelName(string(label)) {
		return nil, fmt.Errorf("server label %q: want letters, digits and _", label)
	}
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: idleTimeout, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: len(events.LoadFields()),
	}
	if c.CAFile != "" {
		if base.TLSClientConfig, err = trusting(c.CAFile); err != nil {
			return nil, err
		}
	}
	t := &transport{base: base, tokenFile: c.TokenFile}
	if _, err := t.token(); err != nil {
		return nil, err
	}
	client, err := api.NewClient(api.Config{Address: c.URL, Client: &http.Client{
		Transport: t,
		// The token is for the host that was named, and nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}})
	if err != nil {
		return nil, fmt.Errorf("prometheus %q: %w", c.URL, err)
	}
	return &Prometheus{api: v1.NewAPI(client), label: label}, nil
}

func trusting(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA file %s: no certificate in PEM", file)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// Query implements System.
func (p *Prometheus) Query(ctx context.Context, query string) ([]Sample, error) {
	value, _, _, err := p.api.Query(ctx, query, time.Time{})
	if err != nil {
		return nil, explain(err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("%w: it gives a %s, want an instant vector with a series for each server", ErrInvalid, value.Type())
	}
	samples := make([]Sample, 0, len(vector))
	for _, s := range vector {
		if s.Histogram != nil {
			return nil, fmt.Errorf("%w: it gives histograms, want numbers", ErrInvalid)
		}
		samples = append(samples, Sample{Server: string(s.Metric[p.label]), Value: float64(s.Value)})
	}
	return samples, nil
}

// explain returns an error in the system's own words, where it has said some.
func explain(err error) error {
	said, ok := errors.AsType[*v1.Error](err)
	switch {
	case !ok:
		return fmt.Errorf("ask prometheus: %w", err)
	case said.Type == v1.ErrBadData:
		return fmt.Errorf("%w: prometheus says: %s", ErrInvalid, shorten(said.Msg))
	case said.Type == v1.ErrExec:
		return fmt.Errorf("%w: prometheus says: %s", ErrRefused, shorten(said.Msg))
	case said.Detail != "":
		return fmt.Errorf("ask prometheus: %s: %s", said.Msg, shorten(said.Detail))
	default:
		return fmt.Errorf("ask prometheus: %s", shorten(said.Msg))
	}
}

// shorten cuts what somebody else wrote to one line of bounded length.
func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "…"
	}
	return s
}

// transport adds the token to requests and bounds what is read of answers.
type transport struct {
	base      http.RoundTripper
	tokenFile string
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err //nolint:wrapcheck // http.Client wraps it with what was asked
	}
	resp.Body = &bounded{body: resp.Body, left: maxAnswer}
	return resp, nil
}

// token reads the token file.
func (t *transport) token() (string, error) {
	if t.tokenFile == "" {
		return "", nil
	}
	f, err := os.Open(t.tokenFile)
	if err != nil {
		return "", fmt.Errorf("read token file: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", fmt.Errorf("read token file: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return "", fmt.Errorf("read token file %s: want one token", t.tokenFile)
	}
	return token, nil
}

// bounded fails on an answer that is larger than one may be.
type bounded struct {
	body io.ReadCloser
	left int
}

var errTooLarge = fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.body.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// Close implements io.Closer.
func (b *bounded) Close() error { return b.body.Close() }
