package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// settings are a configuration file's values by the name of the flag that they set:
// "access-ttl: 2m" is --access-ttl 2m. Lists are joined by commas.
type settings map[string]setting

type setting struct {
	value string
	// list are the values of a list, one by one.
	list []any
	line int
}

// loadSettings reads a YAML or JSON file of flags' names and values. It is a
// kong.ConfigurationLoader.
func loadSettings(r io.Reader) (kong.Resolver, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n") // the rest is an excerpt of the file
		return nil, fmt.Errorf("read configuration: %s", line)
	}
	s := settings{}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if err := s.add(doc.Body); err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
	}
	return s, nil
}

func (s settings) add(body ast.Node) error {
	entries, ok := body.(ast.MapNode)
	if !ok {
		return fmt.Errorf("line %d: want lines of the form name: value", body.GetToken().Position.Line)
	}
	for it := entries.MapRange(); it.Next(); {
		line := it.Key().GetToken().Position.Line
		value, err := text(it.Value())
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", line, it.Key(), err)
		}
		set := setting{value: value, line: line}
		if list, ok := it.Value().(*ast.SequenceNode); ok {
			for _, item := range list.Values {
				one, _ := text(item) // it went into value already
				set.list = append(set.list, one)
			}
		}
		s[it.Key().String()] = set
	}
	return nil
}

// text returns a scalar as it would stand on the command line.
func text(n ast.Node) (string, error) {
	switch v := n.(type) {
	case *ast.SequenceNode:
		parts := make([]string, len(v.Values))
		for i, item := range v.Values {
			part, err := text(item)
			if err != nil {
				return "", err
			}
			parts[i] = part
		}
		return strings.Join(parts, ","), nil
	case *ast.StringNode:
		return v.Value, nil
	case ast.ScalarNode:
		return v.String(), nil
	default:
		return "", errors.New("want a value or a list of values")
	}
}

// Validate implements kong.Resolver: a name that is no flag of any command is a mistake, and
// would be ignored in silence.
func (s settings) Validate(app *kong.Application) error {
	var known []string
	_ = kong.Visit(app, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok && !flag.Hidden {
			known = append(known, flag.Name)
		}
		return next(nil)
	})
	for name, value := range s {
		if !slices.Contains(known, name) {
			slices.Sort(known)
			return fmt.Errorf("configuration line %d: unknown field %q; known are %s",
				value.line, name, strings.Join(slices.Compact(known), ", "))
		}
	}
	return nil
}

// Resolve implements kong.Resolver. A variable of the environment goes before the file; a flag
// that takes no variable stands on the command line alone.
func (s settings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if len(flag.Envs) == 0 {
		return nil, nil
	}
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	value, ok := s[flag.Name]
	switch {
	case ok && value.list != nil && flag.Tag.Sep == -1: // its values may hold commas
		return value.list, nil
	case ok:
		return value.value, nil
	}
	return nil, nil
}
