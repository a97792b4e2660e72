// Command centroids writes the table of countries that cmd/internal/geoip goes by: each country's ISO 3166-1 code and
// the centroid of its largest polygon. That of all polygons may lie in another country: France's does, by its regions
// overseas.
//
//	npm pack world-atlas@2.0.2 i18n-iso-countries@7.14.0
//	go run -C tools ./centroids .../countries-10m.json .../codes.json > cmd/internal/geoip/countries.csv
//
// The shapes are Natural Earth's (public domain), 1:10m, as TopoJSON of world-atlas; codes.json of i18n-iso-countries
// (MIT) says which numeric code is which letters.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"os"
	"slices"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: centroids countries-10m.json codes.json")
	}
	if err := run(os.Args[1], os.Args[2], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// topology is what is read of a TopoJSON file.
type topology struct {
	Objects struct {
		Countries struct {
			Geometries []country `json:"geometries"`
		} `json:"countries"`
	} `json:"objects"`
	Arcs      [][][2]float64 `json:"arcs"`
	Transform struct {
		Scale, Translate [2]float64
	} `json:"transform"`
}

type country struct {
	Type       string          `json:"type"`
	ID         string          `json:"id"`
	Arcs       json.RawMessage `json:"arcs"`
	Properties struct {
		Name string `json:"name"`
	} `json:"properties"`
}

func run(shapes, codes string, out io.Writer) error {
	var t topology
	var list [][]string
	if err := read(shapes, &t); err != nil {
		return err
	}
	if err := read(codes, &list); err != nil {
		return err
	}
	letters := map[string]string{}
	for _, c := range list {
		letters[c[2]] = c[0]
	}
	largest := map[string][3]float64{}
	for _, c := range t.Objects.Countries.Geometries {
		code := letters[c.ID]
		if c.Properties.Name == "Kosovo" { // has none of ISO's; databases use this one
			code = "XK"
		}
		m, err := t.largest(c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Properties.Name, err)
		}
		if before := largest[code]; dot(m, m) > dot(before, before) { // Australia has two shapes
			largest[code] = m
		}
	}
	delete(largest, "")
	for _, code := range slices.Sorted(maps.Keys(largest)) {
		m := largest[code]
		lat, lon := math.Atan2(m[2], math.Hypot(m[0], m[1])), math.Atan2(m[1], m[0])
		if _, err := fmt.Fprintf(out, "%s,%.2f,%.2f\n", code, lat*180/math.Pi, lon*180/math.Pi); err != nil {
			return err
		}
	}
	return nil
}

func read(path string, to any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, to); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// largest returns the moment of a country's largest polygon.
func (t *topology) largest(c country) (best [3]float64, err error) {
	polygons := make([][][]int, 1)
	into := any(&polygons[0])
	if c.Type == "MultiPolygon" {
		into = &polygons
	}
	if err := json.Unmarshal(c.Arcs, into); err != nil {
		return best, err
	}
	for _, rings := range polygons {
		if m := moment(t.ring(rings[0])); dot(m, m) > dot(best, best) {
			best = m
		}
	}
	return best, nil
}

// ring returns the points of a polygon's outline on the unit sphere. An arc of a negative number is that of its complement,
// backwards; points are differences from the one before.
func (t *topology) ring(arcs []int) (points [][3]float64) {
	for _, i := range arcs {
		backwards := i < 0
		if backwards {
			i = ^i
		}
		var x, y float64
		var arc [][3]float64
		for _, p := range t.Arcs[i] {
			x, y = x+p[0], y+p[1]
			lon := (x*t.Transform.Scale[0] + t.Transform.Translate[0]) * math.Pi / 180
			lat := (y*t.Transform.Scale[1] + t.Transform.Translate[1]) * math.Pi / 180
			arc = append(arc, [3]float64{math.Cos(lat) * math.Cos(lon), math.Cos(lat) * math.Sin(lon), math.Sin(lat)})
		}
		if backwards {
			slices.Reverse(arc)
		}
		points = append(points, arc...)
	}
	return points
}

// moment returns the integral of the position over a polygon of the unit sphere: it points at the centroid, and is about
// as long as the polygon is large. Over each edge it is half the angle, along the normal of the edge's plane; the sign is
// that of a polygon smaller than half the sphere (J. E. Brock, The inertia tensor for a spherical triangle, 1975).
func moment(points [][3]float64) (m [3]float64) {
	var sum [3]float64
	for i, p := range points {
		q := points[(i+1)%len(points)]
		n := [3]float64{p[1]*q[2] - p[2]*q[1], p[2]*q[0] - p[0]*q[2], p[0]*q[1] - p[1]*q[0]}
		if sin := math.Sqrt(dot(n, n)); sin > 0 {
			half := math.Atan2(sin, dot(p, q)) / 2
			for k := range m {
				m[k] += half * n[k] / sin
			}
		}
		for k := range sum {
			sum[k] += p[k]
		}
	}
	if dot(m, sum) < 0 {
		for k := range m {
			m[k] = -m[k]
		}
	}
	return m
}

func dot(a, b [3]float64) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }
