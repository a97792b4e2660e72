package bench

import (
	"fmt"
	"time"

	"github.com/berthhq/berth/events"
)

// region is the one that is measured.
const region = "bench"

// Heartbeat returns that of the i-th server, with every field that a server may fill in.
func Heartbeat(i int) *events.Heartbeat {
	id := fmt.Sprintf("bench-%05d", i)
	return &events.Heartbeat{
		Version: events.Version, Server: id, Region: region,
		URL: "http://127.0.0.1:1/" + id, HealthURL: "http://127.0.0.1:1/" + id + "/healthz",
		Boot: "01K9ZJ4Q8R5T6V7W8X9Y0Z1A2B", Seq: 1, At: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		IntervalMS: 1000, State: events.StateUp, Capacity: 5000,
		Load:        events.Load{Sessions: 1200, InFlight: 17, MaxInFlight: 200, CPU: 0.31, P99: 42.5, Utilisation: 0.24},
		Location:    events.Location{Lat: 53.35, Lon: -6.26},
		Replication: map[string]string{"eu-west-1": "0/16B3748", "us-east-1": "0/16B3749"},
	}
}
