package registry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

// about reports whether the reply is about a server.
func (d *DrainReply) about(s *events.Server) bool {
	return s.Region == d.Region && (d.Server == "" || d.Server == s.Server) && s.State.Alive()
}

// concerns counts the servers that the reply is about, and their sessions.
func (d *DrainReply) concerns(v *View) {
	for i := range v.Servers {
		if s := v.Servers[i]; d.about(s) {
			d.Servers++
			d.Sessions += s.Load.Sessions
		}
	}
}

// warn says what a drain leaves without a place.
func (d *DrainReply) warn(v *View) {
	if d.Server != "" {
		if s, ok := v.Server(d.Server); ok && !s.State.Alive() {
			d.Warnings = append(d.Warnings, fmt.Sprintf("server %s is %s: it drains once it is back", d.Server, s.State))
		}
		for i := range v.Servers {
			if s := v.Servers[i]; s.Region == d.Region && s.Server != d.Server && usable(v, s.Server) {
				return
			}
		}
	}
	switch alone := aloneIn(v, d.Region); {
	case alone && d.Server == "":
		d.Warnings = append(d.Warnings, fmt.Sprintf("no other region takes sessions: those of %s stay until one does, and logins fail (503)", d.Region))
	case alone:
		d.Warnings = append(d.Warnings, fmt.Sprintf("no other server of %s, and no other region, takes sessions: those of %s stay until one does, and logins fail (503)", d.Region, d.Server))
	case d.Server != "":
		d.Warnings = append(d.Warnings, fmt.Sprintf("no other server of %s takes sessions: those of %s go to other regions", d.Region, d.Server))
	}
}

// aloneIn reports whether no region but this one takes sessions, or none at all if it is empty.
func aloneIn(v *View, region string) bool {
	return !slices.ContainsFunc(v.Regions, func(g placement.Region) bool { return g.Name != region && g.Usable > 0 })
}

// warn says what a setting leaves without effect, as placement has it: where no region is left
// that wants a session, the others take it.
func (r *RegionReply) warn(v *View) {
	active, weighty := r.Role == events.RoleActive, r.Weight > 0
	for i := range v.Regions {
		if g := &v.Regions[i]; g.Name != r.Region {
			active = active || g.Role == events.RoleActive
			weighty = weighty || g.Weight > 0
		}
	}
	switch {
	case !active:
		r.Warnings = append(r.Warnings, "no region is active any more: those in standby take the sessions that need a place")
	case !weighty:
		r.Warnings = append(r.Warnings, "every region has weight 0: sessions that need a place get one all the same, as if none had a weight")
	case r.Role == events.RoleActive && r.Weight > 0:
	case aloneIn(v, ""):
		r.Warnings = append(r.Warnings, "no region takes sessions now, whatever is set: logins fail (503)")
	case aloneIn(v, r.Region):
		r.Warnings = append(r.Warnings, fmt.Sprintf("no other region takes sessions: those that need a place still come to %s", r.Region))
	}
}

// usable reports whether new sessions may be placed on a server.
func usable(v *View, id string) bool {
	at, ok := v.Find(id)
	return ok && v.State(at) == events.StateUp && v.Regions[at.Region].Capacity[at.Server] > 0
}

// remains warns of servers that drain on after an undrain.
func (d *DrainReply) remains(v *View, w *Wishes) {
	if d.Server != "" && w.Region != nil {
		d.Warnings = append(d.Warnings, fmt.Sprintf("it drains on with its region: undrain %s", d.Region))
		return
	}
	var own, announced []string
	for i := range v.Servers {
		s := v.Servers[i]
		if !d.about(s) {
			continue
		}
		if _, wanted := w.drainOf(s.Server); wanted {
			own = append(own, s.Server)
		} else if s.State == events.StateDraining && s.Reason == reasonAnnounced {
			announced = append(announced, s.Server)
		}
	}
	if len(own) > 0 {
		d.Warnings = append(d.Warnings, "drained by themselves, so still draining: "+list(own))
	}
	if len(announced) > 0 {
		d.Warnings = append(d.Warnings, "announced it themselves, so still draining: "+list(announced))
	}
}

// maxListed is how many names one line lists.
const maxListed = 5

func list(names []string) string {
	if len(names) > maxListed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), len(names)-maxListed)
	}
	return strings.Join(names, ", ")
}

// suggestions is how many names Suggest gives.
const suggestions = 3

// Suggest says which of the names are most like one that does not exist: "; nearest: a, b",
// empty where there are none.
func Suggest(name string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	distances := make(map[string]int, len(names))
	for _, n := range names {
		distances[n] = distance(name, n)
	}
	sorted := sortedKeys(distances)
	slices.SortStableFunc(sorted, func(a, b string) int { return distances[a] - distances[b] })
	return "; nearest: " + strings.Join(sorted[:min(suggestions, len(sorted))], ", ")
}

// distance is how many letters have to be put in, left out or exchanged to make a of b.
func distance(a, b string) int {
	a, b = a[:min(len(a), events.MaxToken)], b[:min(len(b), events.MaxToken)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
