package events

import (
	"fmt"
	"strconv"
	"strings"
)

// Location is a place on the globe in degrees: latitude −90 to 90, longitude −180 to 180.
type Location struct {
	Lat float64 `json:"lat"`
	Lon float64 `json:"lon"`
}

// ParseLocation reads "lat,lon" in degrees.
func ParseLocation(s string) (Location, error) {
	lat, lon, ok := strings.Cut(s, ",")
	y, errY := strconv.ParseFloat(strings.TrimSpace(lat), 64)
	x, errX := strconv.ParseFloat(strings.TrimSpace(lon), 64)
	if !ok || errY != nil || errX != nil {
		return Location{}, faulty(FaultLocation, "location %q: want latitude,longitude in degrees", s)
	}
	p := Location{Lat: y, Lon: x}
	return p, p.check()
}

// String returns "lat,lon".
func (p Location) String() string { return fmt.Sprintf("%g,%g", p.Lat, p.Lon) }

func (p Location) check() error {
	if !(p.Lat >= -90 && p.Lat <= 90) || !(p.Lon >= -180 && p.Lon <= 180) {
		return faulty(FaultLocation, "location %v, %v: want latitude -90 to 90 and longitude -180 to 180", p.Lat, p.Lon)
	}
	return nil
}
