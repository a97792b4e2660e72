package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the tour's real output into README.md")

// tourStep is one command of the README's tour with the output that it shows.
type tourStep struct {
	command, output string
}

// TestTour runs the commands of the README's tour in one shell against a running fleet and
// compares what they print with what the README shows.
func TestTour(t *testing.T) {
	const readme = "../../README.md"
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	steps := tour(string(text))
	if len(steps) < 10 {
		t.Fatalf("the README's tour has %d commands", len(steps))
	}
	args := []string{"dev", "--ready-file", filepath.Join(t.TempDir(), "ready.json")}
	if !*update { // the output that is written shows the default ports
		args = append(args, "--base-port", "0")
	}
	p := start(t, args...)
	p.eventually(t, time.Minute, "the table", func() bool { return strings.Contains(p.stdout.String(), "Ctrl-C drains") })
	global := strings.Fields(strings.TrimPrefix(p.stdout.String(), "berth dev serves "))[0]
	printed := runTour(t, filepath.Dir(args[2]), global, steps)
	if *update {
		write(t, readme, string(text), steps, printed)
		return
	}
	for i, s := range steps {
		if diff := cmp.Diff(varying(s.output), varying(printed[i])); diff != "" {
			t.Errorf("$ %s\nREADME -, real +:\n%s", s.command, diff)
		}
	}
}

// tour returns the commands of all console blocks.
func tour(text string) []tourStep {
	var steps []tourStep
	in := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			in = strings.HasPrefix(line, "```console")
		case !in:
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, tourStep{command: strings.TrimPrefix(line, "$ ")})
		case strings.HasSuffix(steps[len(steps)-1].command, "\\\n") && steps[len(steps)-1].output == "":
			steps[len(steps)-1].command += line
		default:
			steps[len(steps)-1].output += line
		}
	}
	return steps
}

// runTour runs the commands in one shell and returns what each printed.
func runTour(t *testing.T, dir, global string, steps []tourStep) []string {
	t.Helper()
	const mark = "==== end of step ===="
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	fmt.Fprintf(&script, "set -o pipefail\n")
	for _, s := range steps {
		command := strings.ReplaceAll(s.command, "http://127.0.0.1:7070", global)
		// The program under test is this test's own binary, built already.
		command = strings.ReplaceAll(command, "go run ./cmd/berth", asBerth+"=1 "+self)
		fmt.Fprintf(&script, "%s\necho '%s'\n", strings.TrimSuffix(command, "\n"), mark)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "no_proxy=127.0.0.1") // of the machine that CI runs on
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil || errs.Len() > 0 {
		t.Fatalf("the tour failed: %v\n%s\n%s", err, errs.String(), out.String())
	}
	printed := strings.Split(out.String(), mark+"\n")
	if len(printed) != len(steps)+1 {
		t.Fatalf("%d commands gave %d outputs:\n%s", len(steps), len(printed)-1, out.String())
	}
	return printed[:len(steps)]
}

// varying replaces what differs from run to run: ids, ports, and which of a region's two
// servers was drawn.
func varying(s string) string {
	for _, v := range []struct{ pattern, name string }{
		{`[0-9a-hjkmnp-tv-z]{26}`, "ULID"},
		{`127\.0\.0\.1:[0-9]+`, "127.0.0.1:PORT"},
		{`((?:us-east|eu-west|ap-southeast)-1)-[ab]`, "${1}-X"},
		{`"expiresIn": 1[0-9][0-9]`, `"expiresIn": 120`},
	} {
		s = regexp.MustCompile(v.pattern).ReplaceAllString(s, v.name)
	}
	return s
}

// write puts the output into the README.
func write(t *testing.T, path, text string, steps []tourStep, printed []string) {
	t.Helper()
	var out strings.Builder
	for i, s := range steps {
		before, after, found := strings.Cut(text, "$ "+s.command+s.output)
		if !found {
			t.Fatalf("$ %s is not in the README as it was read", s.command)
		}
		out.WriteString(before + "$ " + s.command + printed[i])
		text = after
	}
	out.WriteString(text)
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
