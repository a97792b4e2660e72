package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/residency"
)

// orgRow is what a file says of one organization.
type orgRow struct {
	// line is where it begins, from 1.
	line int
	residency.SetRequest
}

// Bounds of a file of organizations.
const (
	maxOrgFile = 64 << 20
	// maxFaults is how many faulty rows are told of.
	maxFaults = 20
)

// rowFaults are the faults of a file, each with its line.
type rowFaults struct {
	list []string
	more int
}

func (f *rowFaults) add(line int, format string, args ...any) {
	if len(f.list) == maxFaults {
		f.more++
		return
	}
	f.list = append(f.list, fmt.Sprintf("line %d: %s", line, fmt.Sprintf(format, args...)))
}

// err returns them as one error, nil if there are none.
func (f *rowFaults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	text := strings.Join(f.list, "; ")
	if f.more > 0 {
		text += fmt.Sprintf("; and %d more", f.more)
	}
	return errors.New(text)
}

// readOrgRows reads a CSV file with a header, or JSON: an array of objects, or what berth org list --json prints. What a row
// does not have stays as it is; an empty cell, list or text stands for nothing set.
func readOrgRows(data []byte) ([]orgRow, error) {
	var faults rowFaults
	var rows []orgRow
	start := bytes.TrimLeft(data, " \t\r\n")
	if len(start) > 0 && (start[0] == '[' || start[0] == '{') {
		rows = jsonOrgRows(data, &faults)
	} else {
		rows = csvOrgRows(bytes.TrimPrefix(data, []byte("\ufeff")), &faults)
	}
	first := map[string]int{}
	for _, row := range rows {
		if !events.ValidToken(row.Org) {
			faults.add(row.line, "organization %q: want 1 to %d of a-z 0-9 - _", row.Org, events.MaxToken)
		} else if before := first[row.Org]; before > 0 {
			faults.add(row.line, "organization %s stands on line %d already", row.Org, before)
		} else {
			first[row.Org] = row.line
		}
	}
	if err := faults.err(); err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errors.New("no organization stands in it")
	}
	return rows, nil
}

// orgColumns are the columns of a CSV file.
func orgColumns() []string {
	return []string{"org", "takeover", "allowed", "home", "fallbacks", "jurisdiction"}
}

func csvOrgRows(data []byte, faults *rowFaults) (rows []orgRow) {
	r := csv.NewReader(bytes.NewReader(data))
	r.TrimLeadingSpace = true
	header, err := r.Read()
	if err != nil {
		faults.add(1, "want a header of %s: %v", strings.Join(orgColumns(), ","), csvFault(err))
		return nil
	}
	for i, column := range header {
		header[i] = strings.ToLower(strings.TrimSpace(column))
		if !slices.Contains(orgColumns(), header[i]) {
			faults.add(1, "unknown column %q; known are %s", column, strings.Join(orgColumns(), ", "))
		} else if slices.Contains(header[:i], header[i]) {
			faults.add(1, "column %s stands twice", header[i])
		}
	}
	if !slices.Contains(header, "org") {
		faults.add(1, "there is no column org")
	}
	if len(faults.list) > 0 {
		return nil
	}
	for {
		record, err := r.Read()
		var bad *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			return rows
		case errors.As(err, &bad) && errors.Is(err, csv.ErrFieldCount):
			faults.add(bad.Line, "%d cells, the header has %d", len(record), len(header))
			continue
		case errors.As(err, &bad):
			faults.add(bad.Line, "%v", bad.Err)
			return rows // where the next row begins is not known
		case err != nil:
			faults.add(1, "%v", err)
			return rows
		}
		line, _ := r.FieldPos(0)
		row := orgRow{line: line}
		for i, cell := range record {
			row.set(header[i], strings.TrimSpace(cell))
		}
		rows = append(rows, row)
	}
}

func csvFault(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	}
	return err
}

// set takes a cell. Lists are separated by blanks, commas, semicolons or plus signs.
func (r *orgRow) set(column, cell string) {
	list := func(none string) *[]string {
		words := strings.FieldsFunc(cell, func(c rune) bool { return strings.ContainsRune(" ,;+", c) })
		if len(words) == 1 && words[0] == none {
			words = nil
		}
		if words == nil {
			words = []string{}
		}
		return &words
	}
	switch column {
	case "org":
		r.Org = cell
	case "takeover":
		if r.Takeover = residency.Takeover(cell); cell == "" {
			r.Takeover = residency.TakeoverAvailable
		}
	case "allowed":
		r.Allowed = list(allRegions)
	case "home":
		home := strings.TrimPrefix(cell, noRegion)
		r.Home = &home
	case "fallbacks":
		r.Fallbacks = list(noRegion)
	case "jurisdiction":
		if r.Jurisdiction = cell; cell == "" {
			r.Jurisdiction = events.GlobalJurisdiction
		}
	}
}

// orgObject is an organization in a JSON file: what list prints of one.
type orgObject struct {
	Org          string              `json:"org"`
	Takeover     *residency.Takeover `json:"takeover"`
	Allowed      *[]string           `json:"allowed"`
	Home         *string             `json:"home"`
	Fallbacks    *[]string           `json:"fallbacks"`
	Jurisdiction *string             `json:"jurisdiction"`
	Version      int                 `json:"version"`
	ChangedAt    string              `json:"changed_at"`
	ChangedBy    string              `json:"changed_by"`
}

func jsonOrgRows(data []byte, faults *rowFaults) (rows []orgRow) {
	d := json.NewDecoder(bytes.NewReader(data))
	fail := func(err error) []orgRow {
		at := d.InputOffset()
		if bad := (*json.SyntaxError)(nil); errors.As(err, &bad) {
			at = bad.Offset
		}
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			at, err = int64(len(bytes.TrimRight(data, " \t\r\n"))), errors.New("it ends early")
		}
		faults.add(lineAt(data, at), "not JSON: %v", err)
		return rows
	}
	printed, err := enterOrgs(d)
	if err != nil {
		return fail(err)
	}
	for d.More() {
		var raw json.RawMessage
		line := lineAt(data, nextValue(data, d.InputOffset()))
		if err := d.Decode(&raw); err != nil {
			return fail(err)
		}
		var o orgObject
		one := json.NewDecoder(bytes.NewReader(raw))
		one.DisallowUnknownFields()
		if err := one.Decode(&o); err != nil {
			faults.add(line, "%s", objectFault(err))
			continue
		}
		rows = append(rows, o.row(line, printed))
	}
	if _, err := d.Token(); err != nil {
		return fail(err)
	}
	return rows
}

// objectFault says what is wrong with an object.
func objectFault(err error) string {
	var bad *json.UnmarshalTypeError
	switch {
	case !errors.As(err, &bad):
		return strings.TrimPrefix(err.Error(), "json: ")
	case bad.Field == "":
		return "want an object, got " + bad.Value
	case bad.Type.Kind() == reflect.Slice:
		return fmt.Sprintf("%s: want a list of regions, got %s", bad.Field, bad.Value)
	default:
		return fmt.Sprintf("%s: want %s, got %s", bad.Field, bad.Type.Kind(), bad.Value)
	}
}

// enterOrgs reads up to the first organization: in an array, or in the field orgs of an object, as list prints it.
func enterOrgs(d *json.Decoder) (printed bool, err error) {
	t, err := d.Token()
	if err != nil || t == json.Delim('[') {
		return false, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return true, err
		}
		if key == "orgs" {
			if t, err = d.Token(); err == nil && t != json.Delim('[') {
				err = errors.New("orgs: want an array")
			}
			return true, err
		}
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return true, err
		}
	}
	return true, errors.New("want an array of organizations, or an object with the field orgs")
}

// row returns the change. What list has printed leaves out what is not set.
func (o *orgObject) row(line int, printed bool) orgRow {
	r := orgRow{line: line}
	none, nothing := []string{}, ""
	if printed {
		r.Allowed, r.Home, r.Fallbacks, r.Jurisdiction = &none, &nothing, &none, events.GlobalJurisdiction
	}
	r.Org = o.Org
	if o.Takeover != nil {
		r.set("takeover", string(*o.Takeover))
	}
	if o.Allowed != nil {
		r.Allowed = o.Allowed
	}
	if o.Home != nil {
		r.Home = o.Home
	}
	if o.Fallbacks != nil {
		r.Fallbacks = o.Fallbacks
	}
	if o.Jurisdiction != nil {
		r.set("jurisdiction", *o.Jurisdiction)
	}
	return r
}

// nextValue returns the offset of the value that follows.
func nextValue(data []byte, from int64) int64 {
	for int(from) < len(data) && strings.IndexByte(" \t\r\n,", data[from]) >= 0 {
		from++
	}
	return from
}

func lineAt(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(int(offset), len(data))], []byte("\n"))
}
