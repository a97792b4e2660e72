package geoip

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strings"

	"github.com/berthhq/berth/events"
)

// countries.csv has a country's ISO 3166-1 code and the latitude and longitude of the middle of its largest part, made of
// Natural Earth's shapes by tools/centroids.
//
//go:embed countries.csv
var countriesCSV string

// centroids returns where countries are.
func centroids() (map[string]events.Location, error) {
	rows, err := csv.NewReader(strings.NewReader(countriesCSV)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read countries: %w", err)
	}
	places := make(map[string]events.Location, len(rows))
	for _, row := range rows {
		at, err := events.ParseLocation(row[1] + "," + row[2])
		if err != nil {
			return nil, fmt.Errorf("read countries: %s: %w", row[0], err)
		}
		places[row[0]] = at
	}
	return places, nil
}
