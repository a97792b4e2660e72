package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/berthhq/berth/tokens/api"
)

// addresses writes a database that has each network in a country.
func addresses(t *testing.T, path string, countries map[string]string) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for network, code := range countries {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(n, mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(code)}}); err != nil {
			t.Fatal(err)
		}
	}
	var data bytes.Buffer
	if _, err := tree.WriteTo(&data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// askFrom asks from a loopback address.
func askFrom(t *testing.T, address, method, url string, in, out any, header ...string) {
	t.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext}
	defer transport.CloseIdleConnections()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if dump, _ := httputil.DumpResponse(resp, true); resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(out) != nil {
		t.Fatalf("%s %s from %s: %s", method, url, address, dump)
	}
}

// TestGeoIP: clients of whom nothing is known but their address are sent to the region closest to it, through the front as
// on a regional server's own URL.
func TestGeoIP(t *testing.T) {
	file := filepath.Join(t.TempDir(), "countries.mmdb")
	addresses(t, file, map[string]string{"127.0.0.8/30": "SG", "127.0.0.12/30": "IE"})
	_, ready := startDev(t, "--servers", "1", "--geoip", file)
	const inSingapore, inIreland, nobodyKnows = "127.0.0.9", "127.0.0.13", "127.0.0.1"
	closest := func(from string, header ...string) (reply api.ClosestReply) {
		t.Helper()
		askFrom(t, from, "GET", ready.GlobalURL+"/v1/closestToMe", nil, &reply, header...)
		return reply
	}
	for from, want := range map[string]api.ClosestReply{
		inSingapore: {Region: "ap-southeast-1", Basis: "geoip"},
		inIreland:   {Region: "eu-west-1", Basis: "geoip"},
		nobodyKnows: {Region: "us-east-1", Basis: "region"},
	} {
		got := closest(from)
		if got.Region != want.Region || got.Basis != want.Basis || len(got.Candidates) != 3 || got.Candidates[0].Region != got.Region {
			t.Errorf("closest to %s: %+v; want %s by %s", from, got, want.Region, want.Basis)
		}
		for _, c := range got.Candidates {
			client{t: t}.must("GET", c.ProbeURL, "", nil, nil)
		}
	}
	if got := closest(nobodyKnows, "X-Forwarded-For", inSingapore); got.Basis != "region" {
		t.Errorf("the front believes a client for whom it asks: %+v", got)
	}
	if got := closest(inSingapore, "X-Berth-Client-Location", "53.3,-6.3"); got.Region != "eu-west-1" || got.Basis != "location" {
		t.Errorf("what a client says of itself goes first in dev: %+v", got)
	}

	var in, next api.TokensReply
	askFrom(t, inIreland, "POST", ready.GlobalURL+"/v1/login", api.LoginRequest{Username: ready.Users[0].Username, Password: ready.Users[0].Password}, &in)
	if in.Server.Region != "eu-west-1" {
		t.Errorf("login from Ireland: %+v", in)
	}
	askFrom(t, inSingapore, "POST", in.AuthURL+"/v1/refresh", api.RefreshRequest{RefreshToken: in.RefreshToken}, &next)
	if next.Server.Region != "ap-southeast-1" || next.Reason != "closer_region" {
		t.Errorf("a refresh from Singapore of a session in Ireland: %+v", next)
	}
}

// TestGeoIPFileIsRefused: a file that cannot be used ends the command.
func TestGeoIPFileIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "countries.mmdb")
	if err := os.WriteFile(file, []byte("Dublin"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "dev", "--base-port", "0", "--servers", "1", "--regions", "eu-west-1", "--geoip", file)
	select {
	case err := <-p.done:
		p.done <- err
		if err == nil || !strings.Contains(p.stderr.String(), "read GeoIP database "+file) {
			t.Errorf("it ended with %v and\n%s", err, p.stderr)
		}
	case <-time.After(30 * time.Second):
		t.Error("it serves with a database that is none")
	}
}
