package registry_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/registry"
)

// complaints returns the events about bad input among effects, as "state: reason".
func complaints(effects []registry.Effect) []string {
	var list []string
	for _, e := range effects {
		if r, ok := e.(registry.RegionChanged); ok {
			list = append(list, r.State.State+": "+r.State.Reason)
		}
	}
	return list
}

func bad(server, reason string) registry.BadInput {
	return registry.BadInput{Subject: "berth.v1.heartbeat.eu-west-1." + server, Reason: reason, Detail: "it is odd"}
}

func TestComplaintsAreToldAtOnceAndThenEachMinute(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	var told []string
	for i := range 200 {
		var effects []registry.Effect
		if i < 100 {
			effects = table.Reduce(bad("eu-west-1-a", events.FaultURL), at(float64(i)))
		}
		if i == 10 {
			effects = append(effects, table.Reduce(bad("eu-west-1-b", events.FaultURL), at(10))...)
		}
		effects = append(effects, table.Reduce(registry.Ticked{}, at(float64(i)))...)
		for _, c := range complaints(effects) {
			told = append(told, fmt.Sprintf("%d %s", i, c))
		}
	}
	const what = ": it is odd; mend its configuration; until then the server counts as silent"
	want := []string{
		"0 bad_heartbeats: server eu-west-1-a" + what,
		"10 bad_heartbeats: server eu-west-1-b" + what,
		"60 bad_heartbeats: server eu-west-1-a" + what + " (59 more since 12:00:00)",
		"120 bad_heartbeats: server eu-west-1-a" + what + " (39 more since 12:01:00)",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// What has ended for long is news when it begins again.
	table.Reduce(registry.Ticked{}, at(900))
	if got := complaints(table.Reduce(bad("eu-west-1-a", events.FaultURL), at(901))); len(got) != 1 || strings.Contains(got[0], "more") {
		t.Errorf("after a long rest: %v", got)
	}
}

// TestComplaintsAreBounded: a thousand servers with a fault of their own are a hundred events,
// and one about the rest.
func TestComplaintsAreBounded(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	var told []string
	for i := range 1000 {
		effects := table.Reduce(bad(fmt.Sprintf("s%d", i), events.FaultForged), at(0))
		told = append(told, complaints(effects)...)
		if !slices.Contains(effects, registry.Effect(registry.Complained{Reason: "forged"})) || !slices.Contains(effects, registry.Effect(registry.Skipped{Reason: "forged"})) {
			t.Fatalf("%v is not counted", effects)
		}
	}
	if len(told) != 101 || !strings.HasPrefix(told[100], "bad_heartbeats: several servers: s100: it is odd; see which credentials") {
		t.Errorf("%d events, the last %q", len(told), told[len(told)-1])
	}
	again := complaints(table.Reduce(registry.Ticked{}, at(61)))
	if len(again) != 1 || !strings.Contains(again[0], "several servers: s999: it is odd") || !strings.Contains(again[0], "899 more") {
		t.Errorf("after a minute: %v", again)
	}
	long := complaints(table.Reduce(registry.BadInput{
		Subject: "berth.v1.load.eu-west-1." + strings.Repeat("ä", 99), Reason: "malformed", Detail: strings.Repeat("x", 1<<20),
	}, at(62)))
	if len(long) != 1 || len(long[0]) > 600 || !strings.HasPrefix(long[0], "bad_load_reports: server ä") {
		t.Errorf("a long one: %.100q", long)
	}
	if got := complaints(table.Reduce(registry.BadInput{Subject: "berth.v1.view.us-east-1", Reason: "malformed"}, at(63))); got != nil {
		t.Errorf("a view update that is none: %v", got)
	}
}

// TestBadInputIsToldAndHarmsNothing sends a registry over real NATS one bad message of each
// kind: it is counted, an operator is told who sent it and what to do, and the view is as
// before.
func TestBadInputIsToldAndHarmsNothing(t *testing.T) {
	t.Parallel()
	c := jetstreamtest.Provisioned(t, jetstreamtest.Shared(t))
	metrics := prometheus.NewRegistry()
	r := newRegistry(t, c, func(cfg *registry.Config) {
		cfg.Metrics, cfg.Detection = metrics, registry.Detection{MaxServers: 3, MaxMembers: 2}
	})
	told := make(chan events.RegionState, 100)
	stop, err := c.Subscribe(t.Context(), "berth.v1.region.eu-west-1.*", func(subject string, data []byte) {
		if e, err := events.Decode(subject, data); err == nil && strings.Contains(subject, ".bad_") {
			told <- *e.(*events.RegionState)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	run(t, r.Run)
	const interval = 500 * time.Millisecond
	for _, id := range []string{"eu-west-1-a", "eu-west-1-b", "eu-west-1-c"} {
		run(t, newAgent(c, id, refusing(t), interval).run(t))
	}
	up := map[string]events.State{"eu-west-1-a": events.StateUp, "eu-west-1-b": events.StateUp, "eu-west-1-c": events.StateUp}
	unharmed := func() bool {
		v := r.View()
		got := map[string]events.State{}
		for i := 0; v != nil && i < len(v.Servers); i++ {
			got[v.Servers[i].Server] = v.Servers[i].State
		}
		return maps.Equal(got, up)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "three servers, and a leader to tell", func() bool {
		_, err := r.Methods()[registry.MethodView].Answer(t.Context(), []byte("{}"))
		return err == nil && unharmed()
	})
	for _, test := range badMessages(refusing(t)) {
		before := complained(t, metrics, test.reason)
		began := time.Now()
		if test.off != 0 {
			test.data = dated(t, test.data, began.Add(test.off))
		}
		if err := c.NATS().Publish(test.subject, test.data); err != nil {
			t.Fatal(err)
		}
		jetstreamtest.Eventually(t, 5*time.Second, test.name+" is counted", func() bool { return complained(t, metrics, test.reason) > before })
		if skipped := counted(t, metrics, test.skipped); test.skipped != "" && skipped == 0 {
			t.Errorf("%s: nothing is counted as skipped for %s", test.name, test.skipped)
		}
		select {
		case e := <-told:
			if e.State != test.state || !strings.Contains(e.Reason, test.who) || !strings.Contains(e.Reason, test.says) || e.Region != "eu-west-1" {
				t.Errorf("%s: told %s %q, want %s with %q and %q", test.name, e.State, e.Reason, test.state, test.who, test.says)
			}
			if test.off != 0 && !tellsOfClock(e.Reason, test.off, time.Since(began)) {
				t.Errorf("%s: told %q, want a clock that is off by %v", test.name, e.Reason, test.off)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: nobody is told", test.name)
		}
		jetstreamtest.Eventually(t, 5*time.Second, "the view as before "+test.name, unharmed)
	}
	if got := len(told); got != 0 {
		t.Errorf("%d events more than bad messages, such as %+v", got, <-told)
	}
	claimed := make(chan string, 1)
	stop, err = c.Subscribe(t.Context(), "berth.v1.region.eu-west-1.duplicate_id", func(_ string, data []byte) {
		select {
		case claimed <- string(data):
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	twin := newAgent(c, "eu-west-1-c", refusing(t), interval)
	twin.h.Boot, twin.h.Load.Utilisation = boot(0), 9
	run(t, twin.run(t))
	select {
	case e := <-claimed:
		if !strings.Contains(e, "server eu-west-1-c: boots "+boot(0)+" and "+boot(1)) || counted(t, metrics, registry.SkipOldBoot) == 0 {
			t.Errorf("two processes of one name: told %s", e)
		}
	case <-time.After(5 * time.Second):
		t.Error("two processes of one name: nobody is told")
	}
	jetstreamtest.Eventually(t, 5*time.Second, "the view as before two processes of one name", unharmed)
	for _, s := range r.View().Servers {
		if s.Boot == boot(1) && s.Capacity != 1000 || s.Load.Utilisation > 1 {
			t.Errorf("%+v was changed", s)
		}
	}
}

// badMessage is a message, and what becomes of it.
type badMessage struct {
	name, subject string
	data          []byte
	// reason and skipped are what it is counted under.
	reason, skipped  string
	state, who, says string
	// off is how far the clock that dates it is ahead, if it is a heartbeat from such a clock.
	off time.Duration
}

// dated returns a heartbeat as it is sent at another time.
func dated(t *testing.T, data []byte, at time.Time) []byte {
	t.Helper()
	var h events.Heartbeat
	if err := json.Unmarshal(data, &h); err != nil {
		t.Fatal(err)
	}
	h.At = at
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// tellsOfClock reports whether a complaint says by how much a clock is off, which is the less ahead and the more behind the longer
// the heartbeat was under way.
func tellsOfClock(reason string, off, underWay time.Duration) bool {
	for late := time.Duration(0); late <= underWay.Round(time.Second); late += time.Second {
		says := fmt.Sprintf("its clock is %s ahead of this registry's", off-late)
		if off < 0 {
			says = fmt.Sprintf("its clock is %s behind this registry's", late-off)
		}
		if strings.Contains(reason, says) {
			return true
		}
	}
	return false
}

func TestSkewIsToldToTheSecond(t *testing.T) {
	arrived := at(0)
	for off, want := range map[time.Duration]string{
		5 * time.Minute:                         "its clock is 5m0s ahead of this registry's",
		-5 * time.Minute:                        "its clock is 5m0s behind this registry's",
		5*time.Minute + 700*time.Millisecond:    "its clock is 5m1s ahead of this registry's",
		-(5*time.Minute + 300*time.Millisecond): "its clock is 5m0s behind this registry's",
		-31 * time.Second:                       "its clock is 31s behind this registry's",
		30 * time.Second:                        "",
		-30 * time.Second:                       "",
		0:                                       "",
	} {
		h := beat("eu-west-1-a", boot(0), 1, func(h *events.Heartbeat) { h.At = arrived.Add(off) })
		bad, told := registry.Skewed(h, arrived)
		if told != (want != "") || bad.Detail != want {
			t.Errorf("a clock off by %v: told %t %q, want %q", off, told, bad.Detail, want)
		}
	}
}

// badMessages returns one of each kind; health refuses connections.
func badMessages(url string) []badMessage {
	const prefix = "berth.v1.heartbeat.eu-west-1."
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return data
	}
	// heartbeat is one of eu-west-1-a by an older boot, changed.
	heartbeat := func(change func(*events.Heartbeat)) []byte {
		h := beat("eu-west-1-a", boot(0), 1, func(h *events.Heartbeat) { h.At, h.URL = time.Now(), url })
		change(h)
		return encode(h)
	}
	changed := func(name, reason, says string, change func(*events.Heartbeat)) badMessage {
		return badMessage{name, prefix + "eu-west-1-a", heartbeat(change), reason, reason, "bad_heartbeats", "server eu-west-1-a: ", says, 0}
	}
	list := []badMessage{
		changed("another's id", "forged", "payload of berth.v1.heartbeat.eu-west-1.eu-west-1-b", func(h *events.Heartbeat) { h.Server = "eu-west-1-b" }),
		changed("negative load", "bad_load", "load sessions -1", func(h *events.Heartbeat) { h.Load.Sessions = -1 }),
		changed("a place off the globe", "bad_location", "location 91, 0", func(h *events.Heartbeat) { h.Location = events.Location{Lat: 91} }),
		changed("no http", "bad_url", `url "ftp://x"`, func(h *events.Heartbeat) { h.URL = "ftp://x" }),
		changed("too large", "too_large", "at most 65536", func(h *events.Heartbeat) { h.Replication = map[string]string{"x": strings.Repeat("x", 64<<10)} }),
		changed("no boot", "malformed", "want a ULID", func(h *events.Heartbeat) { h.Boot = "" }),
		changed("a later version", "unknown", "version 99", func(h *events.Heartbeat) { h.Version = 99 }),
	}
	region := changed("another's region", "forged", "payload of berth.v1.heartbeat.us-east-1.eu-west-1-c", func(h *events.Heartbeat) { h.Server, h.Region = "eu-west-1-c", "us-east-1" })
	region.subject, region.who = prefix+"eu-west-1-c", "server eu-west-1-c: "
	nan := changed("no number", "malformed", "invalid character 'N'", func(*events.Heartbeat) {})
	nan.data, nan.subject, nan.who = []byte(strings.Replace(string(nan.data), `"cpu":0`, `"cpu":NaN`, 1)), prefix+"eu-west-1-b", "server eu-west-1-b: "
	full := badMessage{
		"one server too many", prefix + "eu-west-1-z", heartbeat(func(h *events.Heartbeat) { h.Server = "eu-west-1-z" }),
		"too_many", "too_many", "bad_heartbeats", "eu-west-1-z", "no room for more than 3 servers", 0,
	}
	ahead := changed("a clock ahead", "clock", "its clock is ", func(*events.Heartbeat) {})
	ahead.skipped, ahead.off = "", 5*time.Minute
	behind := changed("a clock behind", "clock", "its clock is ", func(h *events.Heartbeat) { h.Server, h.Seq = "eu-west-1-b", 9 })
	behind.subject, behind.who, behind.skipped, behind.off = prefix+"eu-west-1-b", "server eu-west-1-b: ", "", -5*time.Minute
	back := changed("a count that goes back", "sequence_back", "heartbeat 2 came after 9 of boot "+boot(0), func(h *events.Heartbeat) { h.Server, h.Seq = "eu-west-1-b", 2 })
	back.subject, back.who, back.skipped = prefix+"eu-west-1-b", "server eu-west-1-b: ", "older"
	load := report("eu-west-1-a", 0, events.Load{}).Report
	load.At = time.Now().Add(time.Minute)
	future := badMessage{
		"a load of tomorrow", "berth.v1.load.eu-west-1.eu-west-1-a", encode(load),
		"report_from_the_future", "report_from_the_future", "bad_load_reports", "server eu-west-1-a: ", "ahead of this registry's clock", 0,
	}
	return append(list, region, nan, full, ahead, behind, back, future)
}

// complained returns how many messages operators were, or would have been, told of for a reason.
func complained(t *testing.T, metrics *prometheus.Registry, reason string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "berth_registry_complaints_total" && m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// TestTheNextLeaderTellsOfBadInput: a registry that stands by tells nobody, so what it would have
// told is told once it leads, without a time at which nothing was.
func TestTheNextLeaderTellsOfBadInput(t *testing.T) {
	table := registry.NewTable("eu-west-1", registry.Detection{})
	bad := registry.BadInput{Subject: "berth.v1.heartbeat.eu-west-1.eu-west-1-a", Reason: events.FaultLoad, Detail: "load cpu -1"}
	told := func(e registry.Event, seconds float64) (reasons []string) {
		for _, effect := range table.Reduce(e, at(seconds)) {
			if c, ok := effect.(registry.RegionChanged); ok && c.State.State == events.BadHeartbeats {
				reasons = append(reasons, c.State.Reason)
			}
		}
		return reasons
	}
	if got := told(bad, 1); len(got) != 1 {
		t.Fatalf("the first: %q", got)
	}
	if got := told(bad, 2); len(got) != 0 {
		t.Fatalf("a second soon after: %q", got)
	}
	told(registry.Elected{Told: registry.Sayings{}}, 3)
	got := told(registry.Ticked{}, 4)
	if len(got) != 1 || !strings.Contains(got[0], "(1 before)") || strings.Contains(got[0], "00:00:00") {
		t.Errorf("after the election: %q", got)
	}
	if got := told(bad, 5); len(got) != 0 {
		t.Errorf("soon after that: %q", got)
	}
}
