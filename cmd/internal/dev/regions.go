package dev

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berthhq/berth/events"
)

// place is a region and the approximate location of its metropolitan area.
type place struct {
	name string
	at   events.Location
}

// places are the regions that a fleet can be made of: AWS's names, for everybody knows
// where they are.
func places() []place {
	return []place{
		{"us-east-1", events.Location{Lat: 39.04, Lon: -77.49}},
		{"us-east-2", events.Location{Lat: 39.96, Lon: -83.00}},
		{"us-west-1", events.Location{Lat: 37.34, Lon: -121.89}},
		{"us-west-2", events.Location{Lat: 45.84, Lon: -119.70}},
		{"ca-central-1", events.Location{Lat: 45.50, Lon: -73.57}},
		{"sa-east-1", events.Location{Lat: -23.55, Lon: -46.63}},
		{"eu-west-1", events.Location{Lat: 53.35, Lon: -6.26}},
		{"eu-west-2", events.Location{Lat: 51.51, Lon: -0.13}},
		{"eu-west-3", events.Location{Lat: 48.86, Lon: 2.35}},
		{"eu-central-1", events.Location{Lat: 50.11, Lon: 8.68}},
		{"eu-north-1", events.Location{Lat: 59.33, Lon: 18.07}},
		{"eu-south-1", events.Location{Lat: 45.46, Lon: 9.19}},
		{"af-south-1", events.Location{Lat: -33.92, Lon: 18.42}},
		{"me-south-1", events.Location{Lat: 26.23, Lon: 50.59}},
		{"ap-south-1", events.Location{Lat: 19.08, Lon: 72.88}},
		{"ap-southeast-1", events.Location{Lat: 1.35, Lon: 103.82}},
		{"ap-southeast-2", events.Location{Lat: -33.87, Lon: 151.21}},
		{"ap-northeast-1", events.Location{Lat: 35.68, Lon: 139.69}},
		{"ap-east-1", events.Location{Lat: 22.32, Lon: 114.17}},
	}
}

// findPlaces returns the named regions in the order given. It fails on an unknown name or
// one that stands twice.
func findPlaces(names []string) ([]place, error) {
	var list []place
	for _, name := range names {
		all := places()
		i := slices.IndexFunc(all, func(p place) bool { return p.name == name })
		if i < 0 {
			known := make([]string, len(all))
			for k, p := range all {
				known[k] = p.name
			}
			return nil, fmt.Errorf("unknown region %q; known are %s", name, strings.Join(known, ", "))
		}
		if slices.ContainsFunc(list, func(p place) bool { return p.name == name }) {
			return nil, fmt.Errorf("region %q stands twice", name)
		}
		list = append(list, all[i])
	}
	return list, nil
}

// Location returns where a region is; a region that no fleet can be made of is at 0, 0.
func Location(region string) events.Location {
	list, err := findPlaces([]string{region})
	if err != nil {
		return events.Location{}
	}
	return list[0].at
}
