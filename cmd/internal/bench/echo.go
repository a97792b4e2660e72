package bench

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/cmd/internal/service"
)

// EchoReport is how the process of the floors is.
type EchoReport struct {
	// URL is where it takes requests.
	URL string `json:"url"`
	// CPU is the processor time that it has used.
	CPU time.Duration `json:"cpu"`
	// Signature is the processor time of one, where it was asked for.
	Signature time.Duration `json:"signature,omitempty"`
}

// Lengths in bytes of the refresh token, and of the whole answer, of a session as the bench
// starts them; a test holds them to be so.
const (
	tokenLength  = 703
	answerLength = 2059
	// signedLength is that of what is signed for a token, signed how often it is done.
	signedLength = tokenLength - 87 // without the signature, and the dot before it

	signed = 10_000
)

// Echo serves what answers each request with a text as long as a token service's, without
// looking at it, and answers each line on in with an EchoReport on out, the first unasked. The
// line "sign" has it sign. It ends with in, or with ctx.
func Echo(ctx context.Context, in io.Reader, out io.Writer) error {
	l, err := service.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	token := nextToken + strings.Repeat("x", tokenLength) + `"`
	text := []byte("{" + token + `,"rest":"` + strings.Repeat("x", answerLength-len(token)-len(`{,"rest":""}`)) + `"}`)
	length := strconv.Itoa(len(text))
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	g.Go(func() error {
		return service.ServeHTTP(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", length)
			_, _ = w.Write(text) // the client has gone; it counts that
		}))
	})
	err = answer(ctx, io.MultiReader(strings.NewReader("\n"), in), out, func(_ context.Context, order string, say func(any) error) error {
		r := EchoReport{URL: service.URL(l)}
		if order == "sign" {
			if r.Signature, err = signature(); err != nil {
				return err
			}
		}
		r.CPU = cpuTime()
		return say(r)
	})
	cancel()
	return errors.Join(err, g.Wait())
}

// signature measures the processor time of one.
func signature() (time.Duration, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return 0, fmt.Errorf("generate key: %w", err)
	}
	text := make([]byte, signedLength)
	before := cpuTime()
	for i := range signed {
		text[0] = byte(i)
		ed25519.Sign(key, text)
	}
	return (cpuTime() - before) / signed, nil
}
