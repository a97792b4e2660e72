package idempotency

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// TableDDL makes the table, in PostgreSQL, in which Tx stores keys. Let its rows live at least as long as the guard's TTL:
// Table.Prune removes older ones.
const TableDDL = `CREATE TABLE IF NOT EXISTS berth_idempotency (
	key         text PRIMARY KEY,
	fingerprint text NOT NULL,
	status      smallint NOT NULL,
	header      text NOT NULL,
	body        bytea NOT NULL,
	created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS berth_idempotency_created_at ON berth_idempotency (created_at);`

// ErrDone says that the request was carried out before, and its transaction committed. Roll back, and return without a
// reply: the guard answers as the first one was.
var ErrDone = errors.New("the request was carried out before")

// Execer is what Tx needs of a *sql.Tx.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Tx stores the request's key and its reply in the handler's own PostgreSQL transaction, so that its effect and its reply
// are durable together or not at all: once Commit has returned nil, the handler gives that very reply, as by Reply.Send. Of
// two transactions with one key the second waits for the first, and gets ErrDone if that commits. Where the isolation is
// above READ COMMITTED it may get a serialization failure instead; that is to be rolled back, too.
//
// ctx is that of the request. Tx does nothing where the request has no key, and fails where no guard with a Ledger has let
// it through.
func Tx(ctx context.Context, tx Execer, reply Reply) error {
	d, ok := ctx.Value(doingKey{}).(*doing)
	switch {
	case !ok:
		return errors.New("store idempotency key: the request has passed no guard")
	case d.key == Key{}:
		return nil
	case !d.ledger:
		return errors.New("store idempotency key: the guard has no Ledger, so nobody would look for it")
	}
	header, err := json.Marshal(reply.Header)
	if err != nil {
		return fmt.Errorf("encode reply: %w", err)
	}
	body := reply.Body
	if body == nil {
		body = []byte{}
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO berth_idempotency (key, fingerprint, status, header, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (key) DO NOTHING`,
		d.key.String(), d.fingerprint, reply.Status, string(header), body)
	if err != nil {
		return fmt.Errorf("store idempotency key: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("store idempotency key: %w", err)
	}
	if n == 0 {
		d.superseded.Store(true)
		return ErrDone
	}
	d.stored.Store(true)
	return nil
}

// Ledger looks up what handlers have stored with Tx. Lookup returns a done entry with its fingerprint and reply if the
// transaction has committed, ErrNotFound if none has, or ErrUnavailable. It reads where the handlers write, not from a
// replica. It ends with ctx and is safe for concurrent use.
type Ledger interface {
	Lookup(ctx context.Context, key Key) (Entry, error)
}

// Table is the Ledger of a database that has TableDDL.
type Table struct{ DB *sql.DB }

var _ Ledger = (*Table)(nil)

// Lookup implements Ledger.
func (t *Table) Lookup(ctx context.Context, key Key) (Entry, error) {
	e := Entry{Version: EntryVersion, State: StateDone, Reply: &Reply{}}
	var header string
	err := t.DB.QueryRowContext(ctx, `SELECT fingerprint, status, header, body FROM berth_idempotency WHERE key = $1`, key.String()).
		Scan(&e.Fingerprint, &e.Reply.Status, &header, &e.Reply.Body)
	if err == nil {
		err = json.Unmarshal([]byte(header), &e.Reply.Header)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Entry{}, ErrNotFound
	case err != nil:
		return Entry{}, fmt.Errorf("%w: look up %s: %w", ErrUnavailable, key, err)
	}
	return e, nil
}

// Prune removes the keys that were stored before a time, and returns how many. Keys younger than the guard's TTL have to
// stay.
func (t *Table) Prune(ctx context.Context, before time.Time) (int64, error) {
	res, err := t.DB.ExecContext(ctx, `DELETE FROM berth_idempotency WHERE created_at < $1`, before)
	if err != nil {
		return 0, fmt.Errorf("prune idempotency keys: %w", err)
	}
	return res.RowsAffected()
}

// committed settles, by the ledger, a request of which the store only knows that its outcome is unknown. If nothing was
// committed it may run: Tx lets at most one commit, also if the first is still at it.
func (g *Guard) committed(ctx context.Context, key Key, fingerprint string) (*Entry, Verdict, error) {
	if g.cfg.Ledger == nil {
		return nil, Unknown, nil
	}
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	e, err := g.cfg.Ledger.Lookup(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, Run, nil
	case err != nil:
		return nil, Unknown, err
	case e.Fingerprint != fingerprint:
		return &e, Mismatch, nil
	default:
		return &e, Replay, nil
	}
}

// ledgerPatience bounds one look at the ledger.
const ledgerPatience = 2 * time.Second

// superseded answers a request whose transaction came second, whatever its handler has replied.
func (g *Guard) superseded(w http.ResponseWriter, r *http.Request, x *execution) {
	first, verdict, err := g.committed(context.WithoutCancel(r.Context()), x.key, x.entry.Fingerprint)
	switch {
	case err != nil || verdict == Run || verdict == Unknown:
		g.finish(r.Context(), x, StateLost, nil, whyRolledBack)
		g.refuse(w, unavailable("the request was carried out before, and its reply cannot be read now", err))
	case verdict == Mismatch:
		g.finish(r.Context(), x, StateVoid, nil, "")
		g.refuse(w, refusalOf(Mismatch))
	default:
		g.finish(r.Context(), x, StateDone, first.Reply, "")
		g.replay(w, first.Reply)
	}
}
