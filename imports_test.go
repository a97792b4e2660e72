package berth_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/berthhq/berth"

// A layer is a folder, with all below it that has no row of its own, and the layers that its packages may import.
// Packages of one layer may import each other.
type layer struct {
	folder string
	below  []string
}

// layers holds the import directions: cmd, jetstream, then tokens, dns, console and sdk, then registry, sessions, policy
// and residency, then placement and primary, then the wire. A folder that no row names is a fault, so a new one must find its place here.
var layers = []layer{
	{folder: ""},
	{folder: "events"},
	{folder: "tokens/api"},
	{folder: "placement", below: wire},
	{folder: "policy", below: changed},
	{folder: "primary", below: wire},
	{folder: "registry", below: records},
	{folder: "residency", below: changed},
	{folder: "sessions", below: records},
	{folder: "console", below: services},
	{folder: "dns", below: services},
	{folder: "sdk", below: append([]string{"sdk/client"}, services...)},
	{folder: "sdk/client", below: []string{"tokens/api"}},
	{folder: "tokens", below: services},
	{folder: "jetstream", below: adapters},
	{folder: "jetstream/embedded", below: append([]string{"jetstream"}, adapters...)},
	{folder: "jetstream/jetstreamtest", below: append([]string{"jetstream", "jetstream/embedded"}, adapters...)},
	{folder: "cmd", below: append([]string{"jetstream", "jetstream/embedded"}, adapters...)},
}

// What the layers above may import, each with all that lies below it.
var (
	wire     = []string{"events", "tokens/api"}
	records  = append([]string{"placement"}, wire...)
	changed  = append([]string{"primary"}, records...)
	services = append([]string{"policy", "registry", "residency", "sessions"}, changed...)
	adapters = append([]string{"console", "dns", "sdk", "sdk/client", "tokens"}, services...)
)

// A guest is a library that only some layers may import, and only some may link, directly or through others.
type guest struct {
	path      string
	importers []string
	linkers   []string
}

var guests = []guest{
	{
		path:      "github.com/nats-io/nats.go",
		importers: []string{"jetstream", "jetstream/embedded", "jetstream/jetstreamtest", "cmd"},
		linkers:   []string{"jetstream", "jetstream/embedded", "jetstream/jetstreamtest", "cmd"},
	},
	{
		// A program that imports jetstream and sdk/server carries no NATS server.
		path:      "github.com/nats-io/nats-server",
		importers: []string{"jetstream/embedded", "jetstream/jetstreamtest"},
		linkers:   []string{"jetstream/embedded", "jetstream/jetstreamtest", "cmd"},
	},
}

// pkg is what `go list -json` says of a package; test files are not part of it. Deps is the transitive closure of Imports.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImportsGoDownOnly(t *testing.T) {
	pkgs := list(t)
	for _, fault := range faults(pkgs) {
		t.Error(fault)
	}

	// A check that looks at nothing passes for the wrong reason.
	if len(pkgs) < 2 {
		t.Errorf("go list found %d packages of %s: nothing was checked", len(pkgs), module)
	}
	for _, path := range []string{"jetstream", "jetstream/embedded"} {
		at := slices.IndexFunc(pkgs, func(p pkg) bool { return p.ImportPath == module+"/"+path })
		if at < 0 {
			continue
		}
		g := guests[0]
		if path == "jetstream/embedded" {
			g = guests[1]
		}
		if !slices.ContainsFunc(pkgs[at].Deps, g.matches) {
			t.Errorf("%s does not link %s: the table names a path that nobody uses", path, g.path)
		}
	}
}

// TestWrongImportIsFound plants imports in a made-up listing: the check above must see each.
func TestWrongImportIsFound(t *testing.T) {
	const server = "github.com/nats-io/nats-server/v2/server"
	tests := []struct {
		from, to string
		want     string
	}{
		{"events", module + "/placement", "events imports placement"},
		{"events", module + "/tokens/api", "events imports tokens/api"},
		{"tokens/api", module + "/tokens", "tokens/api imports tokens"},
		{"placement/sim", module + "/registry", "placement/sim imports registry"},
		{"registry", module + "/sessions", "registry imports sessions"},
		{"sessions", module + "/tokens", "sessions imports tokens"},
		{"tokens", module + "/sdk/server", "tokens imports sdk/server"},
		{"tokens", module + "/jetstream", "tokens imports jetstream"},
		{"sdk/client", module + "/sdk/server", "sdk/client imports sdk/server"},
		{"jetstream", module + "/jetstream/embedded", "jetstream imports jetstream/embedded"},
		{"jetstream", module + "/cmd/internal/dev", "jetstream imports cmd/internal/dev"},
		{"cmd/berth", module + "/jetstream/jetstreamtest", "cmd/berth imports jetstream/jetstreamtest"},
		{"sdk/server", "github.com/nats-io/nats.go/micro", "sdk/server imports github.com/nats-io/nats.go"},
		{"cmd/berth", server, "cmd/berth imports github.com/nats-io/nats-server"},
		{"tokenz", "time", "tokenz belongs to no layer"},

		{"placement", module + "/tokens/api", ""},
		{"registry", module + "/registry/telemetry", ""},
		{"tokens", module + "/sessions", ""},
		{"sdk/client", module + "/tokens/api", ""},
		{"jetstream", module + "/sdk/server", ""},
		{"jetstream/embedded", server, ""},
		{"cmd/berth", module + "/jetstream/embedded", ""},
	}
	for _, test := range tests {
		var want []string
		if test.want != "" {
			want = []string{test.want}
		}
		got := faults([]pkg{{ImportPath: module + "/" + test.from, Imports: []string{test.to}}})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s importing %s (-want +got):\n%s", test.from, test.to, diff)
		}
	}

	through := pkg{ImportPath: module + "/jetstream", Imports: []string{"example.com/between"}, Deps: []string{"example.com/between", server}}
	want := []string{"jetstream links github.com/nats-io/nats-server"}
	if diff := cmp.Diff(want, faults([]pkg{through})); diff != "" {
		t.Errorf("a server linked through another package (-want +got):\n%s", diff)
	}
}

// faults returns one line for each import or link that the tables do not allow.
func faults(pkgs []pkg) []string {
	var found []string
	for _, p := range pkgs {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		from, ok := layerOf(p.ImportPath)
		if !ok {
			found = append(found, name+" belongs to no layer")
			continue
		}
		for _, path := range p.Imports {
			to, ours := layerOf(path)
			if ours && to.folder != from.folder && !slices.Contains(from.below, to.folder) {
				found = append(found, fmt.Sprintf("%s imports %s", name, strings.TrimPrefix(path, module+"/")))
			}
		}
		for _, g := range guests {
			switch {
			case slices.ContainsFunc(p.Imports, g.matches) && !slices.Contains(g.importers, from.folder):
				found = append(found, fmt.Sprintf("%s imports %s", name, g.path))
			case slices.ContainsFunc(p.Deps, g.matches) && !slices.Contains(g.linkers, from.folder):
				found = append(found, fmt.Sprintf("%s links %s", name, g.path))
			}
		}
	}
	return found
}

// layerOf returns the row with the longest folder that holds the package; the empty folder holds the root package alone.
func layerOf(path string) (layer, bool) {
	if path == module {
		return layers[0], true
	}
	var found layer
	for _, l := range layers[1:] {
		if under(path, module+"/"+l.folder) && len(l.folder) > len(found.folder) {
			found = l
		}
	}
	return found, found.folder != ""
}

// matches reports whether an import path belongs to the guest's module.
func (g guest) matches(path string) bool { return under(path, g.path) }

// under reports whether an import path is the prefix or lies below it.
func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// list returns the packages of this module, as the go command sees them.
func list(t *testing.T) []pkg {
	t.Helper()
	var stderr bytes.Buffer
	command := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports,Deps", "./...")
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		if under(p.ImportPath, module) {
			pkgs = append(pkgs, p)
		}
	}
}
