package main

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// decodeSegment reads a token's claims without checking its signature.
func decodeSegment(t *testing.T, token string, claims any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token %q has %d parts", token, len(parts))
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, claims); err != nil {
		t.Fatal(err)
	}
}
