package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

// TestTokenServicesOutOfOrder are not asked by every client, and are again once they answer.
func TestTokenServicesOutOfOrder(t *testing.T) {
	conn, s, _ := paths(t, "/")
	refresh := func() reply {
		return ask(t, http.MethodPost, s.URL+"/v1/refresh", strings.NewReader("{}"))
	}
	for range 30 {
		if r := refresh(); r.StatusCode != 503 || r.problem.Code != string(api.CodeUnavailable) || r.Header.Get("Retry-After") != "1" {
			t.Fatalf("nobody there: %d %v %s", r.StatusCode, r.Header, r.body)
		}
	}
	service := answerRPC(t, conn, "global", api.MethodRefresh, always(httpAnswer(200, "{}")))
	for range 10 {
		if r := refresh(); r.StatusCode != 503 {
			t.Fatalf("asked at once after so many failures: %d %s", r.StatusCode, r.body)
		}
	}
	if n := len(service.requests); n != 0 {
		t.Errorf("they were asked %d times in the pause", n)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "an answer", func() bool { return refresh().StatusCode == 200 })
	for range 20 {
		if r := refresh(); r.StatusCode != 200 {
			t.Fatalf("they answer: %d %s", r.StatusCode, r.body)
		}
	}
}

// TestClientsDoNotBreakTheirServices: who has no patience, or makes up a token, keeps nobody else from them.
func TestClientsDoNotBreakTheirServices(t *testing.T) {
	conn, s, _ := paths(t, "/")
	answerRPC(t, conn, "global", api.MethodLogin, func(*nats.Msg) *nats.Msg { return nil })
	answerRPC(t, conn, "global", api.MethodRefresh, always(httpAnswer(200, "{}")))
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			soon := time.Now().Add(50 * time.Millisecond).UTC().Format(time.RFC3339Nano)
			if r := ask(t, http.MethodPost, s.URL+"/v1/login", nil, api.HeaderDeadline, soon); r.StatusCode != 503 {
				t.Errorf("%d %s", r.StatusCode, r.body)
			}
			token := unverified(fmt.Sprintf(`{"sid":"s","jurisdiction":"made-up-%d"}`, i))
			if r := ask(t, http.MethodPost, s.URL+"/v1/refresh", strings.NewReader(fmt.Sprintf(`{"refreshToken":%q}`, token))); r.StatusCode != 503 {
				t.Errorf("%d %s", r.StatusCode, r.body)
			}
		})
	}
	all.Wait()
	for range 5 {
		if r := ask(t, http.MethodPost, s.URL+"/v1/refresh", strings.NewReader("{}")); r.StatusCode != 200 {
			t.Fatalf("the next one: %d %s", r.StatusCode, r.body)
		}
	}
}
