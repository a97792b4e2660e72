package placement_test

import (
	"encoding/csv"
	"math"
	"os"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// haversine is the great-circle distance in km, by another formula than the package's.
func haversine(a, b events.Location) float64 {
	const rad = math.Pi / 180
	lat, lon := math.Sin((b.Lat-a.Lat)*rad/2), math.Sin((b.Lon-a.Lon)*rad/2)
	h := lat*lat + math.Cos(a.Lat*rad)*math.Cos(b.Lat*rad)*lon*lon
	return 2 * placement.EarthRadius * math.Asin(math.Sqrt(min(1, h)))
}

func readCSV(t *testing.T, path string) [][]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func number(t *testing.T, text string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// pair is a measured round-trip time between two regions.
type pair struct {
	a, b events.Location
	ms   float64
}

func measuredPairs(t *testing.T) []pair {
	places := map[string]events.Location{}
	for _, row := range readCSV(t, "sim/data/regions.csv")[1:] {
		places[row[0]] = events.Location{Lat: number(t, row[2]), Lon: number(t, row[3])}
	}
	rows := readCSV(t, "sim/data/aws-region-rtt.csv")
	var list []pair
	for _, row := range rows[1:] {
		for i, to := range rows[0][1:] {
			if to != row[0] {
				list = append(list, pair{places[row[0]], places[to], number(t, row[i+1])})
			}
		}
	}
	return list
}

// TestLineFitsTheMeasurements fits the line again by least squares, and checks the errors
// that its comment names.
func TestLineFitsTheMeasurements(t *testing.T) {
	pairs := measuredPairs(t)
	if len(pairs) != 342 {
		t.Fatalf("%d pairs, want 342", len(pairs))
	}
	n := float64(len(pairs))
	var sumX, sumY, sumXX, sumXY float64
	for _, p := range pairs {
		x := haversine(p.a, p.b)
		sumX, sumY, sumXX, sumXY = sumX+x, sumY+p.ms, sumXX+x*x, sumXY+x*p.ms
	}
	slope := (n*sumXY - sumX*sumY) / (n*sumXX - sumX*sumX)
	offset := (sumY - slope*sumX) / n
	if math.Abs(slope-placement.Slope) > 5e-7 || math.Abs(offset-placement.Offset) > 5e-3 {
		t.Errorf("the line is %.6f ms/km + %.2f ms, the code has %v and %v", slope, offset, placement.Slope, placement.Offset)
	}
	var square, absolute, total float64
	for _, p := range pairs {
		miss := p.ms - placement.Milliseconds(p.a, p.b)
		square += miss * miss
		absolute += math.Abs(miss)
		total += (p.ms - sumY/n) * (p.ms - sumY/n)
	}
	root, mean, r2 := math.Sqrt(square/n), absolute/n, 1-square/total
	if math.Round(root) != 48 || math.Round(mean) != 32 || math.Round(100*r2) != 69 {
		t.Errorf("root mean square error %.1f ms, mean absolute error %.1f ms, R² %.3f", root, mean, r2)
	}
}

func TestMillisecondsFollowsTheGreatCircle(t *testing.T) {
	location := rapid.Custom(func(t *rapid.T) events.Location {
		return events.Location{Lat: rapid.Float64Range(-90, 90).Draw(t, "lat"), Lon: rapid.Float64Range(-180, 180).Draw(t, "lon")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := location.Draw(t, "a"), location.Draw(t, "b")
		got := placement.Milliseconds(a, b)
		want := placement.Offset + placement.Slope*haversine(a, b)
		if math.Abs(got-want) > 0.01 { // 600 m
			t.Fatalf("%v ms, want %v", got, want)
		}
		if back := placement.Milliseconds(b, a); back != got {
			t.Fatalf("%v ms there, %v ms back", got, back)
		}
	})

	// A place that is on no globe is a quarter of the way round it from everywhere.
	quarter := placement.Milliseconds(events.Location{}, events.Location{Lat: 90})
	for _, nowhere := range []events.Location{{Lat: 91}, {Lon: -181}, {Lat: math.NaN()}, {Lon: math.Inf(1)}} {
		if got := placement.Milliseconds(nowhere, events.Location{Lat: 50}); math.Abs(got-quarter) > 1e-3 {
			t.Errorf("from %v: %v ms, want %v", nowhere, got, quarter)
		}
	}
}
