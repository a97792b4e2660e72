package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// GrantsConfig says what a process of NATS and a token service begins with.
type GrantsConfig struct {
	// Dir keeps what it stores.
	Dir string
	// Tokens is the file that the sessions' refresh tokens are written to, a line each.
	Tokens string
	// Sessions is how many are started.
	Sessions int
}

// GrantsReport is how such a process is.
type GrantsReport struct {
	// URL is where refreshes are posted.
	URL string `json:"url"`
	// CPU is the processor time that it has used, RSS its memory in bytes.
	CPU time.Duration `json:"cpu"`
	RSS int64         `json:"rss"`
	// Took is how long the sessions took to start.
	Took time.Duration `json:"took"`
	// Refreshed and Decisions count the events that are stored: of refreshed sessions, and of
	// decisions about them.
	Refreshed uint64 `json:"refreshed"`
	Decisions uint64 `json:"decisions"`
}

// Grants runs a NATS server of its own, with its store on disk, and a token service as
// `berth tokens` runs it, starts the sessions over NATS and answers each line on in with a
// GrantsReport on out, the first unasked. The line "settle" has it count the stored events,
// once no more come. It ends with in, or with ctx.
func Grants(ctx context.Context, c GrantsConfig, in io.Reader, out io.Writer) error {
	return withNATS(ctx, filepath.Join(c.Dir, "nats"), func(conn *jetstream.Conn, url string) error { return runGrants(ctx, c, conn, url, in, out) })
}

func runGrants(ctx context.Context, c GrantsConfig, conn *jetstream.Conn, nats string, in io.Reader, out io.Writer) (err error) {
	if err := putServers(ctx, conn); err != nil {
		return err
	}
	keys := filepath.Join(c.Dir, "keys.pem")
	if err := tokens.GenerateKey(keys); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	ready := make(chan string, 1)
	g.Go(func() error {
		return service.RunTokens(ctx, service.TokensConfig{
			NATS: jetstream.Config{URL: nats, Region: region}, Listen: "127.0.0.1:0",
			Issuer: "https://api.example.com", KeyFile: keys, Ready: func(url, _ string) { ready <- url },
		})
	})
	select {
	case url := <-ready:
		err = serveGrants(ctx, c, conn, url, in, out)
	case <-ctx.Done():
	}
	cancel()
	return errors.Join(err, g.Wait())
}

// serveGrants starts the sessions and answers orders.
func serveGrants(ctx context.Context, c GrantsConfig, conn *jetstream.Conn, url string, in io.Reader, out io.Writer) error {
	began := time.Now()
	if err := startSessions(ctx, c, conn); err != nil {
		return err
	}
	if _, _, err := settled(ctx, conn); err != nil {
		return err
	}
	took := time.Since(began)
	return answer(ctx, io.MultiReader(strings.NewReader("\n"), in), out, func(ctx context.Context, order string, say func(any) error) error {
		r := GrantsReport{URL: url + "/v1/refresh", CPU: cpuTime(), RSS: rss(), Took: took}
		if order == "settle" {
			var err error
			if r.Refreshed, r.Decisions, err = settled(ctx, conn); err != nil {
				return err
			}
		}
		return say(r)
	})
}

// The servers that sessions are placed on.
const (
	benchRegions = 3
	benchServers = 10 // of each region
)

func serverID(i int) string { return fmt.Sprintf("server-%02d", i) }

// putServers fills the view, as a registry does.
func putServers(ctx context.Context, conn *jetstream.Conn) error {
	now := time.Now()
	for i := range benchRegions * benchServers {
		id, at := serverID(i), region
		if r := i / benchServers; r > 0 {
			at = fmt.Sprintf("%s-%d", region, r)
		}
		s := events.Server{
			Server: id, Region: at, URL: "https://" + id + "." + at + ".example.com", Boot: "01K9ZJ4Q8R5T6V7W8X9Y0Z1A2B", State: events.StateUp,
			Reason: "heartbeat", Since: now, SeenAt: now, IntervalMS: 1000, Capacity: 50_000, Seq: 1,
			Load:     events.Load{Sessions: 10_000, Utilisation: 0.2},
			Location: events.Location{Lat: 53.35 + float64(10*(i/benchServers)), Lon: -6.26},
		}
		value, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("encode server: %w", err)
		}
		if _, err := conn.Servers().Put(ctx, s.Key(), value, 0); err != nil {
			return err
		}
	}
	return nil
}

// starters is how many sessions are started at once.
const starters = 128

// startSessions starts the sessions and writes their refresh tokens.
func startSessions(ctx context.Context, c GrantsConfig, conn *jetstream.Conn) error {
	list := make([]string, c.Sessions)
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range starters {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
				var err error
				if list[i], err = startSession(ctx, conn, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	file, err := os.OpenFile(c.Tokens, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	out := bufio.NewWriter(file)
	for _, token := range list {
		fmt.Fprintln(out, token)
	}
	if err := errors.Join(out.Flush(), file.Close()); err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	return nil
}

// startSession starts one as an application does whose users are its own.
func startSession(ctx context.Context, conn *jetstream.Conn, i int64) (string, error) {
	body := fmt.Appendf(nil, `{"subject":"user-%07d@example.com","org":"acme","scope":"orders:read orders:write","claims":{"role":"member"}}`, i)
	subject := events.Subject{
		Kind: events.KindRPC, Service: "tokens", Jurisdiction: events.GlobalJurisdiction, Region: region, Method: api.MethodStart,
	}
	reply, err := conn.Call(ctx, subject.String(), nil, body)
	if err != nil {
		return "", err
	}
	if status := http.Header(reply.Header).Get(api.HeaderStatus); status != "200" {
		return "", fmt.Errorf("start session: status %s: %s", status, reply.Data)
	}
	return newToken(reply.Data)
}

// settled waits until no more events come and counts those of refreshes.
func settled(ctx context.Context, conn *jetstream.Conn) (refreshed, decisions uint64, err error) {
	stream, err := conn.JetStream().Stream(ctx, jetstream.StreamEvents)
	if err != nil {
		return 0, 0, fmt.Errorf("look up events: %w", err)
	}
	deadline := time.Now().Add(settleLimit)
	for before := uint64(0); ; {
		info, err := stream.Info(ctx, natsjs.WithSubjectFilter(">"))
		if err != nil {
			return 0, 0, fmt.Errorf("count events: %w", err)
		}
		if info.State.Msgs == before && before > 0 || time.Now().After(deadline) {
			for subject, n := range info.State.Subjects {
				switch s, err := events.ParseSubject(subject); {
				case err != nil:
				case s.Kind == events.KindSession && (s.State == events.SessionRefreshed || s.State == events.SessionMoved):
					refreshed += n
				case s.Kind == events.KindDecision && s.Reason != "login":
					decisions += n
				}
			}
			return refreshed, decisions, nil
		}
		before = info.State.Msgs
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}
