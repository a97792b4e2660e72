package berth_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// reasonPlaces are the constants that docs/reasons.md explains: where they stand, and how they are
// named. Those that are sentences explain themselves.
var reasonPlaces = []struct{ dir, heading, named string }{
	{"registry", "## Servers", `^[rR]eason[A-Z]`},
	{"registry", "## Regions", `^region(Up|Unreachable|Down)$`},
	{"events", "## Regions", `^(Protected|FailOpen|DuplicateID|BadHeartbeats|BadLoadReports)$`},
	{"placement", "## Decisions", `^Reason[A-Z]`},
}

// TestEveryReasonIsExplained: an operator who meets a reason finds it in the page.
func TestEveryReasonIsExplained(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("docs", "reasons.md"))
	if err != nil {
		t.Fatal(err)
	}
	word := regexp.MustCompile(`^[a-z_]+$`)
	for _, place := range reasonPlaces {
		_, table, ok := strings.Cut(string(page), place.heading+"\n")
		if !ok {
			t.Fatalf("the page has no %q", place.heading)
		}
		table, _, _ = strings.Cut(table, "\n## ")
		found := 0
		for name, value := range stringConstants(t, place.dir, regexp.MustCompile(place.named)) {
			if !word.MatchString(value) {
				continue
			}
			found++
			if !strings.Contains(table, "\n| `"+value+"` |") {
				t.Errorf("%s has no row for %s (%s of %s)", place.heading, value, name, place.dir)
			}
		}
		if found == 0 {
			t.Errorf("no constant of %s is named %s", place.dir, place.named)
		}
	}
}

// stringConstants returns the string constants of a package's files whose names match, by name.
func stringConstants(t *testing.T, dir string, named *regexp.Regexp) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, name := range spec.Names {
				if i >= len(spec.Values) || !named.MatchString(name.Name) {
					continue
				}
				literal, ok := spec.Values[i].(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					continue
				}
				if values[name.Name], err = strconv.Unquote(literal.Value); err != nil {
					t.Fatal(err)
				}
			}
			return true
		})
	}
	return values
}
