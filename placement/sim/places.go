package sim

import (
	"bytes"
	"cmp"
	_ "embed" // the data files
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// Places are where clients are, and the round-trip times from there to regions.
type Places struct {
	// Names are the places, Weight how many clients each has relative to the others.
	Names  []string
	Weight []float64
	// RTT holds the milliseconds from each place to the regions, by name.
	RTT []map[string]float64
}

//go:embed data/cities.csv
var citiesCSV []byte

//go:embed data/regions.csv
var regionsCSV []byte

//go:embed data/aws-region-rtt.csv
var regionRTTCSV []byte

// The way from a city to the network between the regions: accessMS there and back, and the
// rest of the distance to a region's metropolitan area by fibreMS a kilometre, which is the
// slope of the line that package placement estimates times by.
const (
	accessMS = 4
	fibreMS  = 0.0164
	kmPerMS  = 1 / fibreMS
	entries  = 3 // the nearest regions by which a city's traffic may enter
)

// Cities returns the places of the shipped scenarios: 86 large cities, weighted about as their
// metropolitan areas have people. From a city the time to a region is that to one of the three
// nearest metropolitan areas whose times to the regions were measured, and from there the
// measured time; of these ways the shortest. docs/simulate.md names the sources.
func Cities() (*Places, error) {
	metros, at, err := readPlaces(regionsCSV, 1)
	if err != nil {
		return nil, fmt.Errorf("read regions: %w", err)
	}
	measured, err := ReadRTT(bytes.NewReader(regionRTTCSV))
	if err != nil {
		return nil, err
	}
	cities, where, err := readPlaces(citiesCSV, 1)
	if err != nil {
		return nil, fmt.Errorf("read cities: %w", err)
	}
	p := &Places{}
	for i, city := range cities {
		weight, err := strconv.ParseFloat(city[3], 64)
		if err != nil {
			return nil, fmt.Errorf("read cities: %s: weight %q: want a number", city[0], city[3])
		}
		p.Names = append(p.Names, city[0])
		p.Weight = append(p.Weight, weight)
		p.RTT = append(p.RTT, waysFrom(where[i], metros, at, measured))
	}
	return p, nil
}

// waysFrom returns the times from a location to all regions.
func waysFrom(from events.Location, metros [][]string, at []events.Location, measured *Places) map[string]float64 {
	order := make([]int, len(metros))
	local := make([]float64, len(metros))
	for i := range metros {
		km := (placement.Milliseconds(from, at[i]) - placement.Milliseconds(from, from)) * kmPerMS
		order[i], local[i] = i, accessMS+km*fibreMS
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(local[a], local[b]) })
	times := map[string]float64{}
	for _, to := range metros {
		best := math.Inf(1)
		for _, entry := range order[:entries] {
			row := slices.Index(measured.Names, metros[entry][0])
			best = min(best, local[entry]+measured.RTT[row][to[0]])
		}
		times[to[0]] = best
	}
	return times
}

// readPlaces reads rows of which the last two columns before any weight are a location.
func readPlaces(data []byte, header int) (rows [][]string, at []events.Location, err error) {
	rows, err = csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		return nil, nil, err
	}
	lat := slices.Index(rows[0], "lat")
	rows = rows[header:]
	for _, row := range rows {
		y, errLat := strconv.ParseFloat(row[lat], 64)
		x, errLon := strconv.ParseFloat(row[lat+1], 64)
		if err := errors.Join(errLat, errLon); err != nil {
			return nil, nil, err
		}
		at = append(at, events.Location{Lat: y, Lon: x})
	}
	return rows, at, nil
}

// ReadRTT reads a matrix of round-trip times in milliseconds as CSV: the first row names the
// regions, the first column the places; a column "weight" says how many clients a place has
// relative to the others, 1 without it. Empty cells are ways that nobody goes. An error names
// the line.
func ReadRTT(r io.Reader) (*Places, error) {
	reader := csv.NewReader(r)
	header, err := reader.Read()
	if err != nil {
		return nil, fmt.Errorf("read round-trip times: %w", err)
	}
	p := &Places{}
	for {
		row, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read round-trip times: %w", err)
		}
		if err := p.addRow(header, row); err != nil {
			line, _ := reader.FieldPos(0)
			return nil, fmt.Errorf("read round-trip times: line %d: %w", line, err)
		}
	}
	if len(p.Names) == 0 {
		return nil, errors.New("read round-trip times: want a line for each place")
	}
	return p, nil
}

// regions returns the names of the regions that any place has a time to, sorted.
func (p *Places) regions() []string {
	names := map[string]bool{}
	for _, times := range p.RTT {
		for name := range times {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func (p *Places) addRow(header, row []string) error {
	weight, times := 1.0, map[string]float64{}
	for i := 1; i < len(row); i++ {
		text := strings.TrimSpace(row[i])
		if text == "" {
			continue
		}
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || !(x >= 0) || math.IsInf(x, 0) {
			return fmt.Errorf("%s to %s: %q: want milliseconds, 0 or more", row[0], header[i], row[i])
		}
		if header[i] == "weight" {
			weight = x
		} else {
			times[header[i]] = x
		}
	}
	p.Names, p.Weight, p.RTT = append(p.Names, row[0]), append(p.Weight, weight), append(p.RTT, times)
	return nil
}
