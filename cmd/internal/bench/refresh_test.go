package bench_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/cmd/internal/bench"
)

func TestRefresh(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	var progress bytes.Buffer
	report, err := bench.Refresh(t.Context(), bench.RefreshConfig{
		Setup: bench.Setup{Phase: 300 * time.Millisecond, Program: self(t), Progress: &progress}, Sessions: 300,
	})
	if err != nil {
		t.Fatal(err)
	}
	var works []string
	for _, r := range report.Rows {
		works = append(works, r.Work)
		if !(r.Ours > 0) || !(r.Floor > 0) || !(r.Ratio > 0) || r.Unit == "" || r.Goal == "" || r.Detail == "" {
			t.Errorf("incomplete: %+v", r)
		}
		if r.Unit != "µs" && !strings.Contains(r.Detail, " 0 refused or failed") {
			t.Errorf("%s: %s", r.Work, r.Detail)
		}
	}
	want := []string{
		"refresh grants over 64 connections, 300 sessions",
		"refresh grant, CPU of NATS and token service",
		"refresh over 16 connections, p50",
		"refresh over 1 connections, p50",
	}
	if diff := cmp.Diff(want, works); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	var grants, stored int
	_, counts, _ := strings.Cut(report.Rows[0].Detail, "; of ")
	if _, err := fmt.Sscanf(counts, "%d grants %d events", &grants, &stored); err != nil || grants <= 300 || stored != grants {
		t.Errorf("%d grants, %d events (%v): %s", grants, stored, err, report.Rows[0].Detail)
	}
	var machine bytes.Buffer
	if err := report.JSON(&machine); err != nil {
		t.Fatal(err)
	}
	var again bench.Report
	if err := json.Unmarshal(machine.Bytes(), &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(report, again); diff != "" {
		t.Errorf("as JSON (-want +got):\n%s", diff)
	}
	checkEmpty(t)
}

// TestEchoIsAsLong holds the floor's sizes to those of a token service.
func TestEchoIsAsLong(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tokens")
	in, orders := io.Pipe()
	said, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- bench.Grants(t.Context(), bench.GrantsConfig{Dir: dir, Tokens: file, Sessions: 1}, in, out)
		_ = out.Close()
	}()
	defer func() {
		_ = orders.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var side bench.GrantsReport
	if err := json.NewDecoder(said).Decode(&side); err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	body := `{"refreshToken":"` + strings.TrimSpace(string(token)) + `"}`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, side.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s (%v)", resp.StatusCode, text, err)
	}
	if near := func(a, b int) bool { return a-b < 30 && b-a < 30 }; !near(len(token), bench.TokenLength) || !near(len(text), bench.AnswerLength) {
		t.Errorf("the token has %d bytes, the answer %d; the echo takes %d and gives %d", len(token), len(text), bench.TokenLength, bench.AnswerLength)
	}
}

// TestClientsSayWhatFails: a refusal is counted and told of, and the token kept.
func TestClientsSayWhatFails(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "not now")
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("a\nb\nc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := bench.ClientsConfig{URL: s.URL, Tokens: file}
	in := io.MultiReader(strings.NewReader("2 0\n"), strings.NewReader("wrong\n"))
	if err := bench.Clients(t.Context(), c, in, &out); err == nil {
		t.Error("a nonsense order was obeyed")
	}
	var got bench.ClientsReport
	if err := json.NewDecoder(&out).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Done != 0 || got.Failed != 3 || got.Fault != "status 503: not now" {
		t.Errorf("%+v", got)
	}
	if err := bench.Clients(t.Context(), bench.ClientsConfig{Tokens: "/nowhere"}, in, &out); err == nil {
		t.Error("clients without tokens")
	}
}
