package placement_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// noon is when most tests decide.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// cities are the regions of large test fleets and where they stand.
var cities = []struct {
	region string
	at     events.Location
}{
	{"ap-northeast-1", events.Location{Lat: 35.68, Lon: 139.69}},
	{"ap-south-1", events.Location{Lat: 19.08, Lon: 72.88}},
	{"ap-southeast-1", events.Location{Lat: 1.35, Lon: 103.82}},
	{"ap-southeast-2", events.Location{Lat: -33.87, Lon: 151.21}},
	{"ca-central-1", events.Location{Lat: 45.50, Lon: -73.57}},
	{"eu-central-1", events.Location{Lat: 50.11, Lon: 8.68}},
	{"eu-north-1", events.Location{Lat: 59.33, Lon: 18.07}},
	{"eu-west-1", events.Location{Lat: 53.35, Lon: -6.26}},
	{"eu-west-2", events.Location{Lat: 51.51, Lon: -0.13}},
	{"sa-east-1", events.Location{Lat: -23.55, Lon: -46.63}},
	{"us-east-1", events.Location{Lat: 39.04, Lon: -77.49}},
	{"us-west-2", events.Location{Lat: 45.84, Lon: -119.70}},
}

// fleet returns n servers in each of the cities, of unequal capacity and load.
func fleet(n int) []placement.Server {
	var list []placement.Server
	for _, city := range cities {
		for i := range n {
			list = append(list, placement.Server{
				ID: fmt.Sprintf("%s-%03d", city.region, i), Region: city.region, State: events.StateUp,
				Capacity: float64(500 + 100*(i%7)), Utilisation: 0.45 + 0.01*float64(i*17%31), Location: city.at,
			})
		}
	}
	return list
}

func BenchmarkDecide(b *testing.B) {
	view := placement.NewView(fleet(50))
	// Server 001 is within the band, as most are at most times; 007 is far above it.
	allowed := []string{"us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "eu-north-1", "ap-southeast-1"}
	refresh := placement.Request{
		Session: "01jd7q2m5ehx8c3v9k4t6w0ynr", Server: "eu-west-1-001", Arrived: "eu-west-1", Allowed: allowed,
		Location: &events.Location{Lat: 53.3, Lon: -6.2},
	}
	with := func(change func(*placement.Request)) placement.Request {
		r := refresh
		change(&r)
		return r
	}
	benchmarks := []struct {
		name    string
		request placement.Request
		want    placement.Reason
	}{
		{"refresh", with(func(r *placement.Request) { r.ClosestServer = "eu-west-1-031" }), placement.ReasonWithinBand},
		{"refresh/overloaded", with(func(r *placement.Request) { r.Server, r.ClosestServer = "eu-west-1-007", "eu-west-1-031" }), ""},
		{"refresh/critical", with(func(r *placement.Request) { r.Critical = true }), placement.ReasonCriticalTask},
		{"ranking/location", refresh, placement.ReasonWithinBand},
		{"ranking/rtt", with(func(r *placement.Request) {
			r.RTT = []placement.RTT{{"eu-west-1-001", 12}, {"us-east-1-001", 80}, {"eu-central-1-002", 31}}
		}), ""},
		{"ranking/move", with(func(r *placement.Request) { r.Location = &events.Location{Lat: 1.3, Lon: 103} }), placement.ReasonCloserRegion},
		{"login", with(func(r *placement.Request) { r.Server = "" }), placement.ReasonLogin},
		{"login/all", with(func(r *placement.Request) { r.Server, r.Allowed = "", nil }), placement.ReasonLogin},
	}
	for _, bm := range benchmarks {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			r := bm.request
			for b.Loop() {
				r.Generation++
				d := placement.Decide(r, &view, placement.Policy{}, noon)
				if d.Server == "" || (bm.want != "" && d.Reason != bm.want) {
					b.Fatalf("decided %+v", d)
				}
			}
		})
	}
}

func BenchmarkNewView(b *testing.B) {
	for _, n := range []int{50, 850} {
		servers := fleet(n)
		b.Run(fmt.Sprintf("%d", len(servers)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				placement.NewView(servers)
			}
		})
	}
}
