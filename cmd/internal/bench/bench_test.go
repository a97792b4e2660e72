package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/cmd/internal/bench"
)

// TestMain makes the test binary the program whose processes a bench starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "bench" {
		if err := process(os.Args[2], os.Args[3:]); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func process(name string, args []string) error {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	var side bench.SideConfig
	var load bench.LoadConfig
	var grants bench.GrantsConfig
	var clients bench.ClientsConfig
	flags.Func("dir", "", func(dir string) error { side.Dir, grants.Dir = dir, dir; return nil })
	flags.Func("tokens", "", func(file string) error { grants.Tokens, clients.Tokens = file, file; return nil })
	flags.IntVar(&grants.Sessions, "sessions", 0, "")
	flags.StringVar(&clients.URL, "url", "", "")
	flags.BoolVar(&side.Floor, "floor", false, "")
	flags.StringVar(&load.Address, "address", "", "")
	flags.IntVar(&load.Servers, "servers", 0, "")
	flags.IntVar(&load.Connections, "connections", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx := context.Background()
	switch name {
	case "side":
		return bench.Side(ctx, side, os.Stdin, os.Stdout)
	case "load":
		return bench.Load(ctx, load, os.Stdin, os.Stdout)
	case "grants":
		return bench.Grants(ctx, grants, os.Stdin, os.Stdout)
	case "echo":
		return bench.Echo(ctx, os.Stdin, os.Stdout)
	case "clients":
		return bench.Clients(ctx, clients, os.Stdin, os.Stdout)
	default:
		return fmt.Errorf("no such process: %s", name)
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRegistry(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	var progress bytes.Buffer
	report, err := bench.Registry(t.Context(), bench.Config{
		Setup: bench.Setup{Phase: 300 * time.Millisecond, Program: self(t), Progress: &progress}, Servers: 60, Full: true,
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
	}
	want := []string{
		"heartbeat folded into the view, CPU of NATS and registry",
		"change of a server's state to a token service's view",
		"fresh view of 60 servers",
		"memory of registry and NATS, 60 servers over 16 connections",
		"the same over a connection for each server",
	}
	if diff := cmp.Diff(want, works); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if first := report.Rows[0].Detail; !strings.Contains(first, "lost 0, gaps 0") || !strings.Contains(first, "whole again after") || !strings.HasSuffix(first, ": true") {
		t.Errorf("heartbeats: %s", first)
	}
	var table, machine bytes.Buffer
	if err := report.Table(&table); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(table.String(), "\n"); !strings.HasPrefix(lines[0], "WORK ") || !strings.HasPrefix(lines[1], want[0]) {
		t.Errorf("table:\n%s", table.String())
	}
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
	if !strings.Contains(progress.String(), "fresh views\n") {
		t.Errorf("progress: %s", progress.String())
	}
	checkEmpty(t)
}

// TestRegistryIsInterrupted: what was started ends, and nothing is left behind.
func TestRegistryIsInterrupted(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	progress := writer(func(p []byte) {
		if strings.Contains(string(p), "the floor") {
			time.AfterFunc(500*time.Millisecond, cancel)
		}
	})
	_, err := bench.Registry(ctx, bench.Config{Setup: bench.Setup{Phase: 20 * time.Second, Program: self(t), Progress: progress}, Servers: 60})
	if err == nil || ctx.Err() == nil {
		t.Errorf("%v after %v, want an interruption", err, time.Since(began))
	}
	checkEmpty(t)
}

func TestBenchesRefuseNonsense(t *testing.T) {
	registry := func(n int, s bench.Setup) (bench.Report, error) {
		return bench.Registry(t.Context(), bench.Config{Setup: s, Servers: n})
	}
	refresh := func(n int, s bench.Setup) (bench.Report, error) {
		return bench.Refresh(t.Context(), bench.RefreshConfig{Setup: s, Sessions: n})
	}
	for name, b := range map[string]struct {
		run  func(int, bench.Setup) (bench.Report, error)
		most int
	}{"registry": {registry, bench.MaxServers}, "refresh": {refresh, bench.MaxSessions}} {
		for _, test := range []struct {
			n     int
			setup bench.Setup
			want  string
		}{
			{0, bench.Setup{Program: "berth"}, "s 0: want 1 to "},
			{b.most + 1, bench.Setup{Program: "berth"}, fmt.Sprintf(": want 1 to %d", b.most)},
			{1, bench.Setup{Phase: -1, Program: "berth"}, "phase -1ns: want at least 0"},
			{1, bench.Setup{}, "no program"},
			{1, bench.Setup{Program: "/nowhere/berth", Progress: io.Discard}, "/nowhere/berth"},
		} {
			_, err := b.run(test.n, test.setup)
			if err == nil || !strings.Contains(err.Error(), "bench "+name+": ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, %d, %+v: error %v, want %q", name, test.n, test.setup, err, test.want)
			}
		}
	}
}

func TestLoadRefusesNonsense(t *testing.T) {
	if err := bench.Load(t.Context(), bench.LoadConfig{}, strings.NewReader("fast\n"), io.Discard); err == nil {
		t.Error("a nonsense order was obeyed")
	}
	if err := bench.Load(t.Context(), bench.LoadConfig{Address: "127.0.0.1:1", Connections: 1}, strings.NewReader(""), io.Discard); err == nil {
		t.Error("connected to nobody")
	}
}

// checkEmpty fails if the temporary directory holds anything.
func checkEmpty(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}
