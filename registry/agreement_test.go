package registry_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/registry"
)

// TestEveryReaderSeesWhatTheTableKnows lives through random histories of a registry: servers come,
// go, drain, die and are told of by telemetry, operators set and drain the region, other regions
// are cut off, lose their store and claim ids twice, and the lead comes and goes. After each step
// a view that was made of the changes, in the registry and by a reader of the bucket, equals one
// made of everything, and all say what the table knows.
func TestEveryReaderSeesWhatTheTableKnows(t *testing.T) {
	t.Parallel()
	const histories, steps = 40, 250
	s := seed(t)
	for i := range uint64(histories) {
		c := newChronicle(rand.New(rand.NewPCG(s, i)))
		for step := range steps {
			c.step()
			if wrong := c.wrong(); wrong != "" {
				t.Fatalf("history %d, step %d: %s", i, step, wrong)
			}
		}
	}
}

// chronicle is a history of a registry, of what it knows, and of who reads that.
type chronicle struct {
	*rand.Rand
	now     time.Time
	table   *registry.Table
	own     map[string]*process
	others  map[string]*elsewhere
	probes  []registry.ProbeDue
	answers []registry.Event
	// wishes are what operators want, as of a revision.
	wishes   registry.Wishes
	revision uint64
	// follows says that the registry does not lead: the bucket stays as it was.
	follows bool
	bucket  map[string]*events.Server
	// here makes the views of the table, there those of the bucket; shownThere is the newest of these.
	here, there               *registry.Series
	currentHere, currentThere atomic.Int64
	shownThere                *registry.View
}

// process is the truth about a server of the own region.
type process struct {
	boot  int
	seq   uint64
	state events.State
	on    bool
}

// elsewhere is another region.
type elsewhere struct {
	seq     uint64
	role    events.Role
	weight  *int
	servers map[string]events.Server
	cut     bool
}

const (
	ownServers   = 5
	otherServers = 4
)

func newChronicle(r *rand.Rand) *chronicle {
	c := &chronicle{
		Rand: r, now: start, own: map[string]*process{}, bucket: map[string]*events.Server{},
		table:  registry.NewTable("eu-west-1", registry.Detection{MaxServers: 6, Keep: 20 * time.Second, Forget: time.Minute}),
		others: map[string]*elsewhere{"us": {servers: map[string]events.Server{}}, "aa": {servers: map[string]events.Server{}}},
	}
	c.here, c.there = registry.NewSeries(&c.currentHere), registry.NewSeries(&c.currentThere)
	for i := range ownServers {
		c.own[fmt.Sprint("s", i)] = &process{}
	}
	if c.IntN(2) == 0 {
		c.reduce(registry.WishesSeen{Wishes: &registry.Wishes{}, Anew: true})
	}
	return c
}

// rarely reports true once in n times.
func (c *chronicle) rarely(n int) bool { return c.IntN(n) == 0 }

func (c *chronicle) anOwn() string { return fmt.Sprint("s", c.IntN(ownServers)) }

func (c *chronicle) role() events.Role { return pick(c, "", events.RoleStandby) }

func (c *chronicle) weight() *int {
	if c.rarely(2) {
		return nil
	}
	w := c.IntN(events.FullWeight + 1)
	return &w
}

func pick[T any](c *chronicle, from ...T) T { return from[c.IntN(len(from))] }

// reduce folds an event. Probes and questions that this causes are answered later in the step.
func (c *chronicle) reduce(e registry.Event) {
	for _, effect := range c.table.Reduce(e, c.now) {
		switch effect := effect.(type) {
		case registry.ProbeDue:
			c.probes = append(c.probes, effect)
		case registry.ViewDue:
			c.answers = append(c.answers, registry.ViewAnswered{Region: effect.Region, Update: c.answer(effect.Region)})
		case registry.SurveyDue:
			dead := registry.Finding{Failed: 3}
			if c.rarely(2) {
				dead = registry.Finding{Good: 3}
			}
			found := map[string]registry.Finding{"eu-west-1": dead, "us": dead, "aa": dead}
			c.answers = append(c.answers, registry.Surveyed{Region: effect.Region, Round: effect.Round, Found: found})
		}
	}
}

// answer is what a region that is asked says of itself, nil if it does not answer.
func (c *chronicle) answer(region string) *events.ViewUpdate {
	o := c.others[region]
	if o.cut || o.seq == 0 || c.rarely(3) {
		return nil
	}
	return o.update(region, c.now, sortedKeys(o.servers), true)
}

func (o *elsewhere) update(region string, now time.Time, ids []string, full bool) *events.ViewUpdate {
	u := &events.ViewUpdate{
		Version: events.Version, Region: region, Seq: o.seq, At: now, Full: full, Part: 1, Of: 1, Role: o.role, Weight: o.weight,
	}
	for _, id := range ids {
		u.Servers = append(u.Servers, o.servers[id])
	}
	return u
}

// step lets something happen, then a moment pass, then tells of it.
func (c *chronicle) step() {
	c.now = c.now.Add(time.Duration(1+c.IntN(400)) * time.Millisecond)
	switch n := c.IntN(20); {
	case n < 2:
		c.starts(c.own[c.anOwn()])
	case n == 2:
		c.operatorWishes()
	case n < 6:
		name := pick(c, "us", "aa")
		c.hears(name, c.others[name])
	case n < 11:
		c.mishap(n)
	}
	for _, id := range sortedKeys(c.own) {
		if p := c.own[id]; p.on && !c.rarely(4) {
			p.seq++
			c.reduce(live(beat(id, boot(p.boot), p.seq, saying(p.state), func(h *events.Heartbeat) {
				h.Load.Utilisation = float64(c.IntN(5)) / 10
			})))
		}
	}
	c.reduce(registry.Ticked{})
	c.findOut()
	c.tell()
}

// starts starts a server or ends it, with or without a goodbye.
func (c *chronicle) starts(p *process) {
	if p.on = !p.on; p.on && c.rarely(3) || p.boot == 0 {
		p.boot, p.seq = p.boot+1, 0
	}
	p.state = pick(c, events.StateUp, events.StateUp, events.StateUp, events.StateDraining, events.StateLeft)
}

// operatorWishes lets an operator change one wish.
func (c *chronicle) operatorWishes() {
	w := c.wishes
	w.Servers = maps.Clone(w.Servers)
	switch c.IntN(5) {
	case 0:
		w.Role = c.role()
	case 1:
		w.Weight = c.weight()
	case 2:
		w.Servers = map[string]registry.Drain{c.anOwn(): {Until: c.now.Add(time.Minute)}}
	case 3:
		w.Servers = nil
	default:
		if w.Region = nil; c.rarely(3) {
			w.Region = &registry.Drain{Until: c.now.Add(time.Hour)}
		}
	}
	c.wishes = w
	c.revision++
	c.reduce(registry.WishesSeen{Wishes: &w, Revision: c.revision})
}

// hears lets another region change, and say so.
func (c *chronicle) hears(name string, o *elsewhere) {
	switch c.IntN(30) {
	case 0:
		o.cut = !o.cut
	case 1: // it has lost its store
		o.seq = 0
		clear(o.servers)
	}
	if c.rarely(6) {
		o.role, o.weight = c.role(), c.weight()
	}
	o.seq++
	var ids []string
	for range c.IntN(3) {
		s := c.drawRemote(name, o.seq)
		o.servers[s.Server] = s
		ids = append(ids, s.Server)
	}
	full := c.rarely(8)
	if full {
		for _, id := range sortedKeys(o.servers) {
			if c.rarely(4) {
				delete(o.servers, id)
			}
		}
		ids = sortedKeys(o.servers)
	}
	u := o.update(name, c.now, ids, full)
	if !o.cut && !c.rarely(10) {
		c.reduce(registry.UpdateSeen{Update: u})
	}
}

// drawRemote returns a server of another region, now and then with an id of the own region's.
func (c *chronicle) drawRemote(region string, seq uint64) events.Server {
	s := remote(fmt.Sprint(region, "-", c.IntN(otherServers)), seq)
	if c.rarely(30) {
		s.Server = "s1"
	}
	s.Region, s.Since, s.SeenAt, s.Load.Utilisation = region, c.now, c.now, c.Float64()
	s.State = pick(c, events.StateUp, events.StateSuspect, events.StateDown, events.StateDraining)
	if c.rarely(4) {
		s.RejoinedAt = c.now // in slow start
	}
	if c.rarely(4) {
		s.Protection = events.FailOpen
	}
	return s
}

// mishap lets something happen to the registry or about it.
func (c *chronicle) mishap(n int) {
	switch {
	case n == 6 && c.rarely(3):
		c.now = c.now.Add(11 * time.Second) // it stands still
	case n == 7 && c.rarely(5):
		c.reduce(registry.Gap{})
	case n == 8 && c.rarely(3):
		c.reduce(registry.LoadSeen{Report: &events.LoadReport{
			Version: events.Version, Server: c.anOwn(), Region: "eu-west-1", At: c.now, Source: "prometheus",
			Load: events.Load{Utilisation: c.Float64()},
		}})
	case n == 9:
		id := c.anOwn()
		c.reduce(registry.Disconnected{Server: id, Boot: boot(c.own[id].boot)})
	case n == 10 && c.rarely(4):
		if c.follows = !c.follows; !c.follows {
			var held []events.Server
			for _, key := range sortedKeys(c.bucket) {
				held = append(held, *c.bucket[key])
			}
			c.reduce(registry.Elected{Servers: held, Told: registry.Sayings{}})
		}
	}
}

// findOut answers what the table wanted to know, most of it.
func (c *chronicle) findOut() {
	for _, due := range c.probes {
		if p := c.own[due.Server]; !c.rarely(5) {
			ok := p != nil && p.on && p.state != events.StateLeft
			c.reduce(registry.ProbeDone{Server: due.Server, Boot: due.Boot, OK: ok, Refused: !ok && c.rarely(2)})
		}
	}
	for _, e := range c.answers {
		c.reduce(e)
	}
	c.probes, c.answers = nil, nil
}

// tell hands what is due to the bucket, whose reader makes a view of it in any order.
func (c *chronicle) tell() {
	c.shownThere = nil
	if c.follows {
		c.table.Follow(c.now)
		return
	}
	told := c.table.Tell(c.now)
	changed := map[string]*events.Server{}
	for _, s := range told.Values {
		c.bucket[s.Key()], changed[s.Key()] = s, s
	}
	for _, key := range told.Gone {
		delete(c.bucket, key)
		delete(changed, key)
	}
	var list []*events.Server
	for _, key := range sortedKeys(changed) {
		list = append(list, changed[key])
	}
	c.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	c.shownThere = c.there.Next(list, told.Gone, c.now)
}

// wrong says how a reader is wrong, empty if none is.
func (c *chronicle) wrong() string {
	if c.shownThere != nil {
		all := registry.NewSeries(&c.currentThere).All(sorted(c.bucket), c.now)
		if diff := differ(all, c.shownThere); diff != "" {
			return "view of the bucket (-of all +next):\n" + diff
		}
	}
	if !c.rarely(3) {
		return ""
	}
	v := c.table.View(c.here, c.now)
	if diff := differ(registry.NewSeries(&c.currentHere).All(v.Servers, c.now), v); diff != "" {
		return "view of the table (-of all +next):\n" + diff
	}
	truth, shown := map[string]events.Server{}, map[string]*events.Server{}
	for _, s := range c.table.Servers() {
		truth[s.Key()] = s
	}
	for _, s := range v.Servers {
		shown[s.Key()] = s
	}
	if diff := c.settings(truth, v); diff != "" {
		return "regions of the view (-want +got):\n" + diff
	}
	want := essence(pointers(truth))
	if got := essence(shown); !maps.Equal(want, got) {
		return "servers in the view (-want +got):\n" + cmp.Diff(want, got)
	}
	if c.follows {
		return ""
	}
	if got := essence(c.bucket); !maps.Equal(want, got) {
		return "servers in the bucket (-want +got):\n" + cmp.Diff(want, got)
	}
	return ""
}

// settings compares how the regions are set: every server that the table knows says it. A region
// whose servers all bear the ids of another's is none to the view.
func (c *chronicle) settings(truth map[string]events.Server, v *registry.View) string {
	all, want, got := map[string]string{}, map[string]string{}, map[string]string{}
	for _, s := range truth {
		role := s.RegionRole
		if role == "" {
			role = events.RoleActive
		}
		all[s.Region] = fmt.Sprint(role, " ", events.WeightOf(s.RegionWeight))
	}
	for i := range v.Regions {
		r := &v.Regions[i]
		want[r.Name], got[r.Name] = all[r.Name], fmt.Sprint(r.Role, " ", r.Weight)
	}
	return cmp.Diff(want, got)
}

// essence is what is known of each server without delay: all but load, and what follows with
// the refreshes.
func essence(servers map[string]*events.Server) map[string]string {
	all := map[string]string{}
	for key, s := range servers {
		all[key] = fmt.Sprintf("%s (%s) of %s at %s, drained %s, held %s", s.State, s.Reason, s.Boot, s.URL, s.DrainUntil, s.HeldUntil)
		if s.State == events.StateSuspect {
			all[key] += ", " + s.Protection
		}
	}
	return all
}

func pointers(servers map[string]events.Server) map[string]*events.Server {
	all := map[string]*events.Server{}
	for key, s := range servers {
		all[key] = &s
	}
	return all
}

func sorted(servers map[string]*events.Server) []*events.Server {
	return slices.SortedFunc(maps.Values(servers), func(a, b *events.Server) int {
		return slices.Compare([]string{a.Region, a.Server}, []string{b.Region, b.Server})
	})
}

// differ compares two views in all that is in them.
func differ(want, got *registry.View) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return cmp.Diff(want, got, cmp.Exporter(func(reflect.Type) bool { return true }), cmp.Comparer(sameCount), cmpopts.EquateEmpty())
}
