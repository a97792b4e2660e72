package idempotency_test

import (
	"bufio"
	"context"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// pg is a database/sql connector to a PostgreSQL that trusts its clients: as much of its protocol, version 3, as these tests
// need. Users of the package bring a driver of their own.
type pg struct{ network, address string }

// Driver implements driver.Connector.
func (pg) Driver() driver.Driver { return nil }

// Connect implements driver.Connector.
func (p pg) Connect(ctx context.Context) (driver.Conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, p.network, p.address)
	if err != nil {
		return nil, err
	}
	c := &pgConn{Conn: nc, r: bufio.NewReader(nc)}
	body := binary.BigEndian.AppendUint32(nil, 196608)
	body = append(body, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	if _, err := nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	if _, err := c.answer(); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return c, nil
}

type pgConn struct {
	net.Conn
	r *bufio.Reader
}

var (
	_ driver.ConnBeginTx    = (*pgConn)(nil)
	_ driver.ExecerContext  = (*pgConn)(nil)
	_ driver.QueryerContext = (*pgConn)(nil)
)

// Prepare implements driver.Conn.
func (c *pgConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }

// Begin implements driver.Conn.
func (c *pgConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx implements driver.ConnBeginTx.
func (c *pgConn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	_, err := c.ask(ctx, "BEGIN", nil)
	return pgTx{c}, err
}

type pgTx struct{ c *pgConn }

// Commit implements driver.Tx.
func (t pgTx) Commit() error {
	got, err := t.c.ask(context.Background(), "COMMIT", nil)
	if err == nil && got.tag != "COMMIT" { // it had failed before
		err = errors.New("commit: " + got.tag)
	}
	return err
}

// Rollback implements driver.Tx.
func (t pgTx) Rollback() error {
	_, err := t.c.ask(context.Background(), "ROLLBACK", nil)
	return err
}

// ExecContext implements driver.ExecerContext.
func (c *pgConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	got, err := c.ask(ctx, query, args)
	if err != nil {
		return nil, err
	}
	n, _ := strconv.ParseInt(got.tag[strings.LastIndexByte(got.tag, ' ')+1:], 10, 64) // DDL says nothing
	return driver.RowsAffected(n), nil
}

// QueryContext implements driver.QueryerContext.
func (c *pgConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.ask(ctx, query, args)
}

// pgRows is an answer.
type pgRows struct {
	tag   string
	names []string
	types []uint32
	rows  [][]driver.Value
}

// Columns implements driver.Rows.
func (r *pgRows) Columns() []string { return r.names }

// Close implements driver.Rows.
func (r *pgRows) Close() error { return nil }

// Next implements driver.Rows.
func (r *pgRows) Next(dest []driver.Value) error {
	if len(r.rows) == 0 {
		return io.EOF
	}
	copy(dest, r.rows[0])
	r.rows = r.rows[1:]
	return nil
}

// ask sends a statement with its arguments and reads all of the answer.
func (c *pgConn) ask(ctx context.Context, query string, args []driver.NamedValue) (*pgRows, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
		defer func() { _ = c.SetDeadline(time.Time{}) }()
	}
	var out []byte
	message := func(kind byte, body []byte) {
		out = append(binary.BigEndian.AppendUint32(append(out, kind), uint32(len(body)+4)), body...)
	}
	message('P', append(append([]byte{0}, query...), 0, 0, 0))
	bind := binary.BigEndian.AppendUint16([]byte{0, 0, 0, 0}, uint16(len(args)))
	for _, a := range args {
		text := pgText(a.Value)
		bind = append(binary.BigEndian.AppendUint32(bind, uint32(len(text))), text...)
	}
	message('B', append(bind, 0, 0))
	message('D', []byte{'P', 0})
	message('E', []byte{0, 0, 0, 0, 0})
	message('S', nil)
	if _, err := c.Write(out); err != nil {
		return nil, errors.Join(driver.ErrBadConn, err)
	}
	return c.answer()
}

func pgText(v driver.Value) string {
	switch v := v.(type) {
	case []byte:
		return `\x` + hex.EncodeToString(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	default:
		return fmt.Sprint(v)
	}
}

// answer reads until the server is ready for the next statement.
func (c *pgConn) answer() (*pgRows, error) {
	got := &pgRows{}
	var fault error
	for {
		var head [5]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return nil, errors.Join(driver.ErrBadConn, err)
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return nil, errors.Join(driver.ErrBadConn, err)
		}
		switch head[0] {
		case 'Z':
			return got, fault
		case 'E':
			fault = errors.New("postgres: " + strings.ReplaceAll(string(body), "\x00", " "))
		case 'C':
			got.tag = string(body[:len(body)-1])
		case 'T':
			got.describe(body)
		case 'D':
			got.row(body)
		}
	}
}

func (r *pgRows) describe(body []byte) {
	for body = body[2:]; len(body) > 0; {
		name, rest, _ := strings.Cut(string(body), "\x00")
		r.names = append(r.names, name)
		r.types = append(r.types, binary.BigEndian.Uint32([]byte(rest[6:])))
		body = []byte(rest[18:])
	}
}

func (r *pgRows) row(body []byte) {
	var row []driver.Value
	for body = body[2:]; len(body) > 0; {
		n := int32(binary.BigEndian.Uint32(body))
		body = body[4:]
		if n < 0 {
			row = append(row, nil)
			continue
		}
		text := string(body[:n])
		body = body[n:]
		switch r.types[len(row)] {
		case 17: // bytea
			data, _ := hex.DecodeString(strings.TrimPrefix(text, `\x`))
			row = append(row, data)
		case 20, 21, 23: // integers
			i, _ := strconv.ParseInt(text, 10, 64)
			row = append(row, i)
		default:
			row = append(row, text)
		}
	}
	r.rows = append(r.rows, row)
}
