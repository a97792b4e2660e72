package jetstream_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

func TestParseEdges(t *testing.T) {
	tests := map[string]struct {
		words []string
		want  []jetstream.Edge
		fault string
	}{
		"nothing":        {nil, nil, ""},
		"none":           {[]string{"none"}, []jetstream.Edge{}, ""},
		"regions":        {[]string{"a", "b-1"}, []jetstream.Edge{{Region: "a"}, {Region: "b-1"}}, ""},
		"jurisdictions":  {[]string{"a=eu+global", "b"}, []jetstream.Edge{{Region: "a", Jurisdictions: []string{"eu", "global"}}, {Region: "b"}}, ""},
		"none and one":   {[]string{"a", "none"}, nil, `edge "none": it stands alone`},
		"twice":          {[]string{"a", "b", "a"}, nil, `edge "a" stands twice`},
		"no region":      {[]string{""}, nil, `edge ""`},
		"wildcard":       {[]string{"*"}, nil, `edge "*"`},
		"no such word":   {[]string{"a=EU"}, nil, `edge a: jurisdiction "EU"`},
		"no edge":        {[]string{"a=local"}, nil, `jurisdiction "local" is what stays`},
		"empty":          {[]string{"a="}, nil, `edge a: jurisdiction ""`},
		"the same again": {[]string{"a=eu+eu"}, nil, `edge a: jurisdiction "eu"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := jetstream.ParseEdges(test.words)
			switch {
			case test.fault != "" && (err == nil || !strings.Contains(err.Error(), test.fault)):
				t.Errorf("got %v, %v, want an error with %q", got, err, test.fault)
			case test.fault == "" && err != nil:
				t.Error(err)
			case test.fault == "":
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			}
		})
	}
}

func TestProvisionEdges(t *testing.T) {
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	if _, ok := configs(t, c)[jetstream.StreamCopies]; ok {
		t.Error("a region without edges has a stream of copies")
	}
	if have, err := c.Edges(t.Context()); err != nil || len(have) != 0 {
		t.Errorf("edges %v, %v of a region without", have, err)
	}
	err := c.Provision(t.Context(), jetstream.Topology{Edges: []jetstream.Edge{{Region: jetstreamtest.SharedRegion}}})
	if err == nil || !strings.Contains(err.Error(), "edge eu-west-1: that is this region itself") {
		t.Errorf("an edge to itself: %v", err)
	}
	if err := c.Provision(t.Context(), jetstream.Topology{Edges: []jetstream.Edge{{Region: "a"}, {Region: "a"}}}); err == nil {
		t.Error("an edge twice: no error")
	}
	edges := []jetstream.Edge{{Region: "us-east-1", Jurisdictions: []string{"eu", "global"}}}
	if err := c.Provision(t.Context(), jetstream.Topology{Edges: edges}); err != nil {
		t.Fatal(err)
	}
	got := configs(t, c)[jetstream.StreamCopies]
	if len(got.Subjects) != 0 || got.MaxMsgsPerSubject != 2 || got.AllowRollup || !got.AllowMsgTTL || got.MaxBytes != 10<<30 || got.AllowDirect {
		t.Errorf("the stream of copies: %+v", got)
	}
	var sources []string
	for _, s := range got.Sources {
		sources = append(sources, strings.Join([]string{s.Name, s.External.APIPrefix, s.External.DeliverPrefix, s.SubjectTransforms[0].Source, s.SubjectTransforms[0].Destination}, " "))
	}
	want := []string{
		"KV_berth_sessions $JS.us-east-1.API berth.copies.eu.us-east-1.eu-west-1 $KV.berth_sessions.eu.> berth.copies.eu.us-east-1.>",
		"KV_berth_sessions $JS.us-east-1.API berth.copies.global.us-east-1.eu-west-1 $KV.berth_sessions.global.> berth.copies.global.us-east-1.>",
	}
	if diff := cmp.Diff(want, sources); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	if have, err := c.Edges(t.Context()); err != nil || !cmp.Equal(edges, have) {
		t.Errorf("edges %v, %v, want %v", have, err, edges)
	}
	// What is as it should be is left alone.
	again := got
	again.Description = "changed"
	if _, err := c.JetStream().UpdateStream(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Provision(t.Context(), jetstream.Topology{Edges: edges, CopyBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	if now := configs(t, c)[jetstream.StreamCopies]; now.MaxBytes != 1<<20 || now.Description == "changed" || len(now.Sources) != 2 {
		t.Errorf("provisioned again: %+v", now)
	}
}
