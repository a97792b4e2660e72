package idempotency_test

import (
	"database/sql"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sdk/server/idempotency"
)

// postgresBin returns where PostgreSQL's programs are: in the path, or where Debian has them.
func postgresBin(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		t.Fatal("this test needs a real PostgreSQL; on Debian: apt-get install postgresql")
	}
	return filepath.Dir(slices.Max(found))
}

// postgres runs a PostgreSQL of the test's own on a Unix socket and returns the socket. It does not run as root: then it is
// the user postgres who runs it.
func postgres(t *testing.T) string {
	t.Helper()
	bin := postgresBin(t)
	dir, err := os.MkdirTemp("", "pg") //nolint:usetesting // a socket's path is short, and the test's directory is for root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var as *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, name), args...) //nolint:noctx // it ends by a signal of ours
		c.SysProcAttr, c.Dir = as, dir
		return c
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "--locale=C", "-E", "UTF8").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	// The processes of the test are killed, not PostgreSQL: it need not sync.
	run := command("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200")
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Process.Signal(syscall.SIGQUIT)
		_ = run.Wait()
	})
	socket := filepath.Join(dir, ".s.PGSQL.5432")
	db := openDB(t, socket)
	jetstreamtest.Eventually(t, 20*time.Second, "PostgreSQL answers", func() bool { return db.PingContext(t.Context()) == nil })
	for statement := range strings.SplitSeq(idempotency.TableDDL+`CREATE TABLE effects (key text, reply text)`, ";") {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	return socket
}

// dial connects to a PostgreSQL that trusts its clients, by its socket.
func dial(socket string) (*sql.DB, error) {
	config, err := pgx.ParseConfig("user=postgres database=postgres sslmode=disable host=" + filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*config), nil
}

// openDB connects to the database until the test ends.
func openDB(t *testing.T, socket string) *sql.DB {
	t.Helper()
	db, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// effects returns the replies of what has been committed, by key.
func effects(t *testing.T, db *sql.DB) map[string][]string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT key, reply FROM effects`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[string][]string{}
	for rows.Next() {
		var key, reply string
		if err := rows.Scan(&key, &reply); err != nil {
			t.Fatal(err)
		}
		all[key] = append(all[key], reply)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
