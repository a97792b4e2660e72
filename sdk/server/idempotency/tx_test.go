package idempotency_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
	"github.com/berthhq/berth/tokens/api"
)

// order carries out a request in one transaction, whose reply is id.
func order(ctx context.Context, db *sql.DB, key, id string) (idempotency.Reply, error) {
	reply := idempotency.Reply{Status: http.StatusCreated, Header: http.Header{"Location": {"/orders/" + id}}, Body: []byte(id)}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return reply, err
	}
	defer func() { _ = tx.Rollback() }() // does nothing once it is committed
	if _, err := tx.ExecContext(ctx, `INSERT INTO effects (key, reply) VALUES ($1, $2)`, key, id); err != nil {
		return reply, err
	}
	if err := idempotency.Tx(ctx, tx, reply); err != nil {
		return reply, err
	}
	return reply, tx.Commit()
}

// answerOrder replies as a handler does.
func answerOrder(w http.ResponseWriter, reply idempotency.Reply, err error) {
	switch {
	case errors.Is(err, idempotency.ErrDone):
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		reply.Send(w)
	}
}

// TestTx: whatever happens between commit and reply, a request whose handler uses Tx has exactly one effect, and each retry
// the reply of that.
func TestTx(t *testing.T) {
	t.Parallel()
	socket := postgres(t)
	db := openDB(t, socket)
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	withLedger := func(c *idempotency.Config) { c.Ledger = &idempotency.Table{DB: db} }
	reborn := func(c *idempotency.Config) { withLedger(c); c.Self.Boot = "boot-2" }
	tests := map[string]struct {
		// before and after are what the handler does the first time instead of its transaction, or once that is committed.
		before, after func(w http.ResponseWriter)
		first         string
	}{
		"fine":           {nil, nil, "201 1"},
		"died before":    {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, nil, "EOF"},
		"died after":     {nil, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, "EOF"},
		"broken before":  {func(w http.ResponseWriter) { http.Error(w, "db", http.StatusInternalServerError) }, nil, "500 db\n"},
		"broken after":   {nil, func(w http.ResponseWriter) { http.Error(w, "commit", http.StatusInternalServerError) }, "500 commit\n"},
		"too long after": {nil, func(w http.ResponseWriter) { fmt.Fprint(w, strings.Repeat("x", 100_000)) }, "200 " + strings.Repeat("x", 100_000)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			key := "tx " + name
			var n atomic.Int64
			serve := func(first bool) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					first := first && n.Load() == 0
					if first && test.before != nil {
						n.Add(1)
						test.before(w)
						return
					}
					reply, err := order(r.Context(), db, key, fmt.Sprint(n.Add(1)))
					if first && err == nil && test.after != nil {
						test.after(w)
						return
					}
					answerOrder(w, reply, err)
				}
			}
			s := openSite(t, conn, serve(true), withLedger)
			next := openSite(t, conn, serve(false), reborn)
			send := func(s *site) string {
				got, err := s.try(t.Context(), "POST", "/", "x", `Idempotency-Key: "`+key+`"`)
				if err != nil {
					return "EOF"
				}
				return fmt.Sprint(got.Status, " ", got.Body)
			}
			if got := send(s); got != test.first {
				t.Errorf("first %.30q, want %.30q", got, test.first)
			}
			had := effects(t, db)[key]
			if len(had) == 0 {
				had = []string{"2"}
			}
			for _, s := range []*site{s, next, s} {
				if got := send(s); got != "201 "+had[0] {
					t.Errorf("retry %q, want %q", got, had)
				}
			}
			if diff := cmp.Diff(had, effects(t, db)[key]); diff != "" {
				t.Errorf("effects (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTxComesSecond: two processes carry out one request at once, because the first was taken for dead.
func TestTxComesSecond(t *testing.T) {
	t.Parallel()
	socket := postgres(t)
	db := openDB(t, socket)
	conn := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	begun, goOn := make(chan struct{}), make(chan struct{})
	slow := openSite(t, conn, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-goOn
		reply, err := order(r.Context(), db, "k", "slow")
		w.Header().Set("X-Handler", "slow")
		answerOrder(w, reply, err)
	}, func(c *idempotency.Config) { c.Ledger = &idempotency.Table{DB: db} })
	quick := openSite(t, conn, func(w http.ResponseWriter, r *http.Request) {
		reply, err := order(r.Context(), db, "k", "quick")
		answerOrder(w, reply, err)
	}, func(c *idempotency.Config) { c.Ledger, c.Self.Boot = &idempotency.Table{DB: db}, "boot-2" })
	late := make(chan answer, 1)
	go func() { a, _ := slow.try(t.Context(), "POST", "/orders", "x", "Idempotency-Key: k"); late <- a }()
	<-begun
	if got := quick.post("k", "x"); got.Status != 201 || got.Body != "quick" {
		t.Errorf("%+v", got)
	}
	close(goOn)
	if got := <-late; got.Status != 201 || got.Body != "quick" || !got.Replayed || got.Header.Get("X-Handler") != "" || got.Header.Get("Location") != "/orders/quick" {
		t.Errorf("%+v", got)
	}
	if got := quick.post("k", "other"); got.Code != api.CodeIdempotencyMismatch {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff(map[string][]string{"k": {"quick"}}, effects(t, db)); diff != "" {
		t.Errorf("effects (-want +got):\n%s", diff)
	}

	// The store has lost it, the table has not.
	empty := openSite(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), func(w http.ResponseWriter, r *http.Request) {
		reply, err := order(r.Context(), db, "k", "again")
		answerOrder(w, reply, err)
	}, func(c *idempotency.Config) { c.Ledger = &idempotency.Table{DB: db} })
	if got := empty.post("k", "x"); got.Body != "quick" || !got.Replayed {
		t.Errorf("%+v", got)
	}
	if got := empty.post("k", "x"); got.Body != "quick" {
		t.Errorf("%+v", got)
	}
	empty.wantRuns(1)
	table := &idempotency.Table{DB: db}
	if n, err := table.Prune(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
	if n, err := table.Prune(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
}

// TestTxMisused: Tx outside of a guard, or under one that would not look for what it stores, is an error; without a key it
// is nothing.
func TestTxMisused(t *testing.T) {
	t.Parallel()
	var tx *sql.Tx // nothing is asked of it
	if err := idempotency.Tx(t.Context(), tx, idempotency.Reply{}); err == nil || !strings.Contains(err.Error(), "no guard") {
		t.Error(err)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, idempotency.Tx(r.Context(), tx, idempotency.Reply{}))
	}
	without := openOne(t, handler, nil)
	if got := without.post("k", ""); !strings.Contains(got.Body, "no Ledger") {
		t.Errorf("%+v", got)
	}
	with := openOne(t, handler, func(c *idempotency.Config) { c.Ledger = &idempotency.Table{} })
	for _, method := range []string{"POST", "PUT"} {
		if got := with.ask(method, "/", ""); got.Body != "<nil>" {
			t.Errorf("%s: %+v", method, got)
		}
	}
}
