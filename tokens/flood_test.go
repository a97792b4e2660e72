package tokens_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestLoginsDoNotHoldUpRefreshes floods the region's service with logins from many addresses:
// refreshes, which arrive the same way and later, are answered while logins still wait.
func TestLoginsDoNotHoldUpRefreshes(t *testing.T) {
	const logins = 1500
	a, _ := healthy(t, "eu-west-1-a", dublin)
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), a)
	salt := make([]byte, 16)
	b64 := base64.RawStdEncoding.EncodeToString
	hash := fmt.Sprintf("$argon2id$v=19$m=32768,t=6,p=1$%s$%s", b64(salt), b64(argon2.IDKey([]byte("ada-dev"), salt, 6, 32768, 1, 32)))
	var list []tokens.User
	for i := range 300 {
		list = append(list, tokens.User{Username: fmt.Sprintf("u%d", i), PasswordHash: hash})
	}
	users, err := tokens.NewUsers(list)
	if err != nil {
		t.Fatal(err)
	}
	s := f.service(func(c *tokens.Config) { c.Users = users })
	cfg := jetstream.ServiceConfig{Name: "flooded", Version: "1.0.0"}
	subject := func(m string) string {
		return events.Subject{Kind: events.KindRPC, Service: "tokens", Jurisdiction: "global", Region: dublin, Method: m}.String()
	}
	for _, m := range tokens.Methods() {
		handler := func(ctx context.Context, r jetstream.Request) jetstream.Reply {
			header, data := s.Serve(ctx, m, r.Header, r.Data)
			return jetstream.Reply{Header: header, Data: data}
		}
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{Name: m, Subject: subject(m), Handler: handler})
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.conn.Serve(ctx, cfg) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var first api.TokensReply
	jetstreamtest.Eventually(t, 5*time.Second, "a session", func() bool {
		r, err := f.conn.Call(t.Context(), subject(api.MethodStart), nil, []byte(`{"subject":"grace"}`))
		return err == nil && json.Unmarshal(r.Data, &first) == nil && first.RefreshToken != ""
	})
	var checked atomic.Int32
	for i := range logins {
		go func() {
			address := map[string][]string{api.HeaderClientAddress: {fmt.Sprintf("10.0.0.%d", i%30)}}
			_, _ = f.conn.Call(ctx, subject(api.MethodLogin), address, fmt.Appendf(nil, `{"username":"u%d","password":"wrong"}`, i%300))
			checked.Add(1)
		}()
	}
	jetstreamtest.Eventually(t, 5*time.Second, "logins to be under way", func() bool { return checked.Load() > 2 })
	data, err := json.Marshal(api.RefreshRequest{RefreshToken: first.RefreshToken})
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int32
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			r, err := f.conn.Call(t.Context(), subject(api.MethodRefresh), nil, data)
			if err != nil || r.Header[api.HeaderStatus][0] != "200" {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n > 0 {
		t.Errorf("%d of 200 refreshes among logins were refused", n)
	}
	if checked.Load() == logins {
		t.Error("all logins were answered before the refreshes were")
	}
}
