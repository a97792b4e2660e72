package geoip_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/berthhq/berth/cmd/internal/geoip"
	"github.com/berthhq/berth/events"
)

// Entries as the databases of several makers have them.
var (
	city = mmdbtype.Map{
		"location": mmdbtype.Map{"latitude": mmdbtype.Float64(53.35), "longitude": mmdbtype.Float64(-6.26), "time_zone": mmdbtype.String("Europe/Dublin")},
		"country":  mmdbtype.Map{"iso_code": mmdbtype.String("IE")},
	}
	country     = mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("FR")}}
	flatCity    = mmdbtype.Map{"country_code": mmdbtype.String("SG"), "latitude": mmdbtype.Float32(1.5), "longitude": mmdbtype.Float32(103.5)}
	flatCountry = mmdbtype.Map{"country_code": mmdbtype.String("SG")}
	offGlobe    = mmdbtype.Map{"location": mmdbtype.Map{"latitude": mmdbtype.Float64(153), "longitude": mmdbtype.Float64(0)}}
	nobodys     = mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("ZZ")}}
	halfAPlace  = mmdbtype.Map{"location": mmdbtype.Map{"latitude": mmdbtype.Float64(53.35)}, "country": mmdbtype.Map{"iso_code": mmdbtype.String("FR")}}
)

// database writes a file of networks.
func database(t testing.TB, path string, networks map[string]mmdbtype.Map) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test", IncludeReservedNetworks: true, RecordSize: 24})
	if err != nil {
		t.Fatal(err)
	}
	for network, value := range networks {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(n, value); err != nil {
			t.Fatal(err)
		}
	}
	var data bytes.Buffer
	if _, err := tree.WriteTo(&data); err != nil {
		t.Fatal(err)
	}
	replace(t, path, data.Bytes())
}

// replace puts a file in the place of another at once.
func replace(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestLocate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.mmdb")
	database(t, path, map[string]mmdbtype.Map{
		"192.0.2.0/25": city, "192.0.2.128/25": country, "198.51.100.0/25": flatCity, "198.51.100.128/25": flatCountry,
		"203.0.113.0/26": offGlobe, "203.0.113.64/26": nobodys, "203.0.113.128/26": halfAPlace, "2001:db8::/32": city,
	})
	db, err := geoip.Open(geoip.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	dublin, france, singapore := &events.Location{Lat: 53.35, Lon: -6.26}, &events.Location{Lat: 46.57, Lon: 2.46}, &events.Location{Lat: 1.36, Lon: 103.81}
	for address, want := range map[string]*events.Location{
		"192.0.2.1": dublin, "::ffff:192.0.2.1": dublin, "2001:db8::1": dublin, "192.0.2.200": france,
		"198.51.100.1": {Lat: 1.5, Lon: 103.5}, "198.51.100.200": singapore,
		"203.0.113.1": nil, "203.0.113.65": nil, "203.0.113.129": france, "127.0.0.1": nil, "2001:db9::1": nil,
	} {
		got, ok := db.Locate(netip.MustParseAddr(address))
		if ok != (want != nil) || ok && got != *want {
			t.Errorf("%s is at %v, %v; want %v", address, got, ok, want)
		}
	}
	if got, ok := db.Locate(netip.Addr{}); ok {
		t.Errorf("no address is at %v", got)
	}
}

// TestRefused: what cannot be used is refused at the start, with the file and the reason.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	database(t, path("good"), map[string]mmdbtype.Map{"192.0.2.0/24": city})
	good, err := os.ReadFile(path("good"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, path("text"), []byte("Dublin"))
	replace(t, path("empty"), nil)
	replace(t, path("half"), good[:len(good)/2])
	database(t, path("asn"), map[string]mmdbtype.Map{"192.0.2.0/24": {"autonomous_system_number": mmdbtype.Uint32(64496)}})
	database(t, path("other"), map[string]mmdbtype.Map{"192.0.2.0/24": {"country": mmdbtype.String("France")}})
	database(t, path("none"), nil)
	large, err := os.Create(path("large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := large.Truncate(geoip.MaxSize + 1); err != nil {
		t.Fatal(err)
	}
	if err := large.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"missing": "no such file", ".": "not a file", "text": "MaxMind DB", "empty": "MaxMind DB", "half": "MaxMind DB",
		"asn": "want a database of cities or countries", "other": "want a database of cities or countries",
		"none": "want a database of cities or countries", "large": "at most",
	} {
		_, err := geoip.Open(geoip.Config{Path: path(name)})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), path(name)) != 1 {
			t.Errorf("%s: %v; want %q and the file's name once", name, err, want)
		}
	}
}

// TestReplaced: a new file is in force within a minute, one that cannot be used never, and is complained of once.
func TestReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.mmdb")
	database(t, path, map[string]mmdbtype.Map{"192.0.2.0/24": country})
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		db, err := geoip.Open(geoip.Config{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- db.Run(ctx) }()
		expect := func(lat float64, lines int) {
			t.Helper()
			time.Sleep(3*time.Minute + time.Second)
			synctest.Wait()
			if at, ok := db.Locate(netip.MustParseAddr("192.0.2.1")); !ok || at.Lat != lat {
				t.Errorf("it is at %v, %v; want latitude %v", at, ok, lat)
			}
			if got := strings.Count(log.String(), "\n"); got != lines {
				t.Errorf("%d lines in the log, want %d:\n%s", got, lines, &log)
			}
		}
		expect(46.57, 0)
		replace(t, path, []byte("Dublin"))
		expect(46.57, 1)
		if !strings.Contains(log.String(), "level=WARN") {
			t.Errorf("no warning: %s", &log)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		expect(46.57, 1)
		database(t, path, map[string]mmdbtype.Map{"192.0.2.0/24": city})
		expect(53.35, 2)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNoDatabase: without a file nobody is anywhere, and nothing is to be done.
func TestNoDatabase(t *testing.T) {
	db, err := geoip.Open(geoip.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if at, ok := db.Locate(netip.MustParseAddr("192.0.2.1")); ok {
		t.Errorf("it is at %v", at)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Run(ctx); err != nil {
		t.Error(err)
	}
}

func BenchmarkLocate(b *testing.B) {
	path := filepath.Join(b.TempDir(), "test.mmdb")
	database(b, path, map[string]mmdbtype.Map{"192.0.2.0/24": city})
	db, err := geoip.Open(geoip.Config{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	address := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		db.Locate(address)
	}
}
