package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/tokens/api"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// examples returns messages of every type that crosses the HTTP interface, by the name of
// their golden file.
func examples() map[string]any {
	server := api.Server{ID: "eu-west-1-b", Region: "eu-west-1", URL: "https://b.eu.example.com"}
	return map[string]any{
		"login_request":  &api.LoginRequest{Username: "alice", Password: "correct horse", Org: "acme"},
		"login_upstream": &api.LoginRequest{IDToken: "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"},
		"start_request": &api.StartRequest{
			Subject: "alice", Org: "acme", Scope: "read write", Claims: map[string]any{"tenant": "t1", "admin": true}, ClientID: "web",
			ClientAddress: "198.51.100.7",
		},
		"refresh_request": &api.RefreshRequest{
			RefreshToken: "aaa.bbb.ccc", ClosestServerID: "eu-west-1-b", CriticalTaskInProgress: true,
			RTTMs: map[string]float64{"eu-west-1-a": 12.5}, FailedServerID: "eu-west-1-a", Bookmark: "0/16B3748",
		},
		"refresh_request_sparse": &api.RefreshRequest{RefreshToken: "aaa.bbb.ccc"},
		"logout_request":         &api.LogoutRequest{RefreshToken: "aaa.bbb.ccc"},
		"tokens_reply": &api.TokensReply{
			AccessToken: "aaa.bbb.ccc", TokenType: "Bearer", ExpiresIn: 120, RefreshToken: "ddd.eee.fff", RefreshExpiresIn: 1209600,
			SessionID: "01k9zj4q8r5t6v7w8x9y0z1a2c", Server: server, AuthURL: "https://b.eu.example.com/berth",
			Fallbacks:     []api.Fallback{{Region: "us-east-1", URL: "https://a.us.example.com/berth"}},
			ServerChanged: true, Decision: "move", Reason: "server_down", Rotated: true,
			Notice: &api.Notice{Code: api.NoticeCodeServerChanged, Message: api.NoticeServerChanged, SyncedWithinSeconds: 300},
		},
		"tokens_reply_unrotated": &api.TokensReply{
			AccessToken: "aaa.bbb.ccc", TokenType: "Bearer", ExpiresIn: 60, SessionID: "01k9zj4q8r5t6v7w8x9y0z1a2c", Server: server,
			AuthURL: "https://b.eu.example.com", Fallbacks: []api.Fallback{}, Decision: "stay", Reason: "store_unavailable",
		},
		"closest_reply": &api.ClosestReply{
			ClosestServerID: "eu-west-1-b", Region: "eu-west-1", URL: "https://b.eu.example.com", Basis: "location",
			Candidates: []api.Candidate{{
				ServerID: "eu-west-1-b", Region: "eu-west-1", URL: "https://b.eu.example.com", ProbeURL: "https://b.eu.example.com/healthz",
			}},
		},
		"servers_reply":   &api.ServersReply{Region: "eu-west-1", Servers: []api.Server{server}},
		"problem":         problem(&api.Error{Code: api.CodeRefreshReused}),
		"problem_invalid": problem(&api.Error{Code: api.CodeInvalidRequest, Detail: "no token", Fields: []api.FieldError{{Location: "body.refreshToken", Message: "required"}}}),
		"problem_locked_elsewhere": problem(&api.Error{
			Code: api.CodeLockedElsewhere, Detail: "send the request there", Server: &server, Cause: errors.New("never sent"),
		}),
		"access_claims":  accessClaims(),
		"refresh_claims": refreshClaims(),
	}
}

func problem(e *api.Error) *api.Problem {
	p := e.Problem()
	return &p
}

func accessClaims() *api.AccessClaims {
	return &api.AccessClaims{
		SessionClaims: api.SessionClaims{
			Issuer: "https://berth.example.com", Subject: "alice", Audience: api.Audience{"api"}, ExpiresAt: 1795257120, IssuedAt: 1795257000,
			ID: "j-1", ClientID: "web", SessionID: "01k9zj4q8r5t6v7w8x9y0z1a2c", Org: "acme", Scope: "read write",
		},
		Lock: api.Lock{
			ServerID: "eu-west-1-b", ServerURL: "https://b.eu.example.com", Region: "eu-west-1", Epoch: 3, EpochRegion: "eu-west-1",
		},
		Fallbacks: []string{"https://a.us.example.com/berth"}, Own: map[string]any{"tenant": "t1", "admin": true},
	}
}

func refreshClaims() *api.RefreshClaims {
	return &api.RefreshClaims{
		SessionClaims: api.SessionClaims{
			Issuer: "https://berth.example.com", Subject: "alice", Audience: api.Audience{"api", "berth"}, ExpiresAt: 1796466600, IssuedAt: 1795257000,
			ID: "j-2", ClientID: "web", SessionID: "01k9zj4q8r5t6v7w8x9y0z1a2c", Org: "acme", Scope: "read write",
		},
		Jurisdiction: "global", Epoch: 3, EpochRegion: "eu-west-1", Generation: 8, SessionStarted: 1795250000, Own: map[string]any{"tenant": "t1", "admin": true},
	}
}

// TestGolden holds the interface: each file decodes to the example, without a field left
// over, and encodes to the very same JSON.
func TestGolden(t *testing.T) {
	for name, want := range examples() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".json")
			if *update {
				pretty, err := json.MarshalIndent(want, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, append(pretty, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := reflect.New(reflect.TypeOf(want).Elem()).Interface()
			decoder := json.NewDecoder(bytes.NewReader(golden))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
			again, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, golden); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(compact.String(), string(again)); diff != "" {
				t.Errorf("encoded again (-golden +got):\n%s", diff)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != len(examples()) {
		t.Errorf("%d golden files for %d examples, %v", len(files), len(examples()), err)
	}
}

// TestCodes pins what clients branch on.
func TestCodes(t *testing.T) {
	statuses := map[api.Code]int{
		"invalid_request": 400, "idempotency_key_required": 400,
		"invalid_credentials": 401, "invalid_token": 401, "token_expired": 401, "refresh_reused": 401, "session_revoked": 401, "session_expired": 401,
		"refresh_superseded": 409, "session_moved": 409, "session_conflict": 409, "idempotency_in_flight": 409, "outcome_unknown": 409,
		"too_large": 413, "locked_elsewhere": 421, "idempotency_mismatch": 422, "rate_limited": 429,
		"server_unconfirmed": 503, "no_healthy_server": 503, "no_allowed_region": 503, "no_region_in_bounds": 503, "replica_behind": 503, "unavailable": 503,
	}
	declared := codes(t)
	if len(declared) != len(statuses) {
		t.Errorf("%d codes are declared, the contract has %d", len(declared), len(statuses))
	}
	titles := map[string]api.Code{}
	for _, c := range declared {
		if got, want := c.Status(), statuses[c]; got != want {
			t.Errorf("%s has status %d, want %d", c, got, want)
		}
		title := c.Title()
		if other, ok := titles[title]; ok {
			t.Errorf("%s and %s have the title %q", c, other, title)
		}
		titles[title] = c
	}
	unknown := api.Code("mystery")
	if _, used := titles[unknown.Title()]; used || unknown.Status() != 500 {
		t.Errorf("an unknown code has status %d, title %q", unknown.Status(), unknown.Title())
	}
}

// codes reads the declared codes from the source, so that a new one cannot miss the table.
func codes(t *testing.T) []api.Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "code.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []api.Code
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); !ok || name.Name != "Code" {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, api.Code(value))
		return true
	})
	return found
}

func TestError(t *testing.T) {
	cause := io.ErrUnexpectedEOF
	e := &api.Error{Code: api.CodeUnavailable, Detail: "the store is away", Cause: cause}
	if got, want := e.Error(), "unavailable: the store is away: unexpected EOF"; got != want {
		t.Errorf("error is %q, want %q", got, want)
	}
	if !errors.Is(e, cause) {
		t.Error("the cause is not found")
	}
	if data, err := json.Marshal(e.Problem()); err != nil || bytes.Contains(data, []byte("EOF")) {
		t.Errorf("the cause is sent: %s, %v", data, err)
	}
}

// TestNotice pins the words that users read.
func TestNotice(t *testing.T) {
	const want = "Your primary server has changed. Any missing data will be synced within 5 minutes."
	if api.NoticeServerChanged != want || api.SyncedWithin.Minutes() != 5 {
		t.Errorf("%q, %s", api.NoticeServerChanged, api.SyncedWithin)
	}
}

func TestRoutesAreDistinct(t *testing.T) {
	methods, paths := map[string]bool{}, map[string]bool{}
	for _, r := range api.Routes() {
		if methods[r.RPC] || paths[r.Path] || r.RPC == api.MethodStart {
			t.Errorf("%+v again", r)
		}
		methods[r.RPC], paths[r.Path] = true, true
	}
}
