// Package document reads what operators write: YAML or JSON, of which nothing is passed over.
package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
)

// Read decodes the one document of data into v. A field that v does not have, one that stands there
// twice, or a second document is a fault. The error names the line where it can.
func Read(data []byte, v any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict())
	if err := decoder.Decode(v); err != nil {
		return lined(err)
	}
	var rest any
	switch err := decoder.Decode(&rest); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return lined(err)
	default:
		return errors.New("want one document, there are more")
	}
}

// Line returns the line of a field that Read has taken from data, given by its path as $.a[0].b, or
// of what it would stand in. 0: it is not known.
func Line(data []byte, path string) int {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return 0
	}
	for path != "$" && path != "" {
		if at, err := yaml.PathString(path); err == nil {
			if node, err := at.FilterFile(file); err == nil && node != nil {
				return node.GetToken().Position.Line
			}
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

// lined returns the error with the line that it is of, if that is known.
func lined(err error) error {
	var fault yaml.Error
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("want a document, there is none")
	case errors.As(err, &fault) && fault.GetToken() != nil:
		return fmt.Errorf("line %d: %s", fault.GetToken().Position.Line, fault.GetMessage())
	default:
		return err
	}
}
