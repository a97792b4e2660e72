package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// SurveyDue asks for probes of servers of a region that is out of reach, from here and by other
// regions; a Surveyed is awaited. Only a registry that leads does it.
type SurveyDue struct {
	Region string
	Round  uint64
	// Servers are those to probe. Their Boot is empty.
	Servers []ProbeDue
	// Ask are the other regions to ask.
	Ask []string
}

// Surveyed is what came of a SurveyDue: what each region found, the own one too. Who did not
// answer is not in it.
type Surveyed struct {
	Region string
	Round  uint64
	Found  map[string]Finding
}

func (SurveyDue) effect() {}
func (Surveyed) event()   {}

// Finding is how many of a region's servers answered their probes somewhere, and how many not.
type Finding struct{ Good, Failed int }

// dead reports whether so few servers answer that the region is dead, as far as that goes.
func (f Finding) dead() bool {
	return f.Failed > 0 && 100*f.Failed >= deadPercent*(f.Good+f.Failed)
}

const (
	// deadPercent is how many of a hundred servers must fail their probes.
	deadPercent = 90
	// surveyEvery is the time from one round of probes to the next, surveySeldom the same once
	// the region is down or was found alive livesEnough times in a row; lostSurvey is how long
	// the results of a round are awaited.
	surveyEvery  = 2 * time.Second
	surveySeldom = 10 * time.Second
	livesEnough  = 5
	lostSurvey   = 15 * time.Second
	// surveyed is how many servers one round probes at most. Of a region of which a fifth
	// still lives, that finds nine tenths dead in one of 170 rounds, and of one of which a
	// third does practically never; two rounds in a row, of other servers, must agree.
	surveyed = 100
	// surveyAsks is how many other regions one round asks; the next one asks others.
	surveyAsks = 4
	// saidHolds is how long a finding of another region counts.
	saidHolds = 30 * time.Second
	// roundsToTurn is how many rounds in a row must agree.
	roundsToTurn = 2
)

// inquest is the question whether a region that is out of reach is dead.
type inquest struct {
	round uint64
	// held is when the last round began, open that it is under way.
	held time.Time
	open bool
	// polled is when each other region was last asked, said what each last found and when.
	polled map[string]time.Time
	said   map[string]testified
	// deaths and lives are how many rounds in a row found it dead, and alive. alone is since
	// when each found it dead while no other region was in reach to ask.
	deaths, lives int
	alone         time.Time
}

type testified struct {
	Finding
	at time.Time
}

// finding is what a round comes to.
type finding int

const (
	foundNothing finding = iota
	foundDead
	foundLiving
)

// survey asks for the next round of probes of a region that is out of reach.
func (t *Table) survey(name string, o *otherRegion, now time.Time) []Effect {
	pause := surveyEvery
	if o.down || o.lives >= livesEnough {
		pause = surveySeldom
	}
	if now.Sub(o.held) < pause || o.open && now.Sub(o.held) < lostSurvey {
		return nil
	}
	servers := o.sample()
	if len(servers) == 0 {
		return nil // nobody there was alive when it was last heard: there is nothing to find out
	}
	if o.polled == nil {
		o.polled, o.said = map[string]time.Time{}, map[string]testified{}
	}
	o.round++
	o.open, o.held = true, now
	ask := t.reachable(name)
	slices.SortStableFunc(ask, func(a, b string) int { return o.polled[a].Compare(o.polled[b]) })
	ask = ask[:min(len(ask), surveyAsks)]
	for _, region := range ask {
		o.polled[region] = now
	}
	return []Effect{SurveyDue{Region: name, Round: o.round, Servers: servers, Ask: ask}}
}

// sample returns the servers to probe in the next round: all that were alive when the region
// was last heard or, of many, some spread evenly over them, others each time.
func (o *otherRegion) sample() []ProbeDue {
	var all []ProbeDue
	for _, s := range o.servers {
		if s.State.Alive() {
			all = append(all, ProbeDue{Server: s.Server, URL: s.Health()})
		}
	}
	if len(all) <= surveyed {
		return all
	}
	list := make([]ProbeDue, surveyed)
	for i := range list {
		list[i] = all[(i*len(all)/surveyed+int(o.round%uint64(len(all))))%len(all)]
	}
	return list
}

// reachable returns the other regions that are heard, but for one.
func (t *Table) reachable(but string) (names []string) {
	for _, name := range sortedKeys(t.others) {
		if o := t.others[name]; name != but && !o.unreachable && !o.heard.IsZero() {
			names = append(names, name)
		}
	}
	return names
}

// surveyed judges a region by one more round. A region is down when nine tenths of its servers
// fail probes from here and from every other region that is in reach and says, at least one of
// them; where none is in reach, when they have failed from here for Detection.Alone. It is
// merely unreachable again once that is no longer so, and up when it is heard.
func (t *Table) surveyed(e Surveyed, now time.Time) []Effect {
	o, ok := t.others[e.Region]
	if !ok || !o.unreachable || !o.open || e.Round != o.round {
		return nil
	}
	o.open = false
	if o.held.Before(t.gap) {
		// This registry itself was cut off or stopped: what it found may be its own fault.
		o.deaths, o.lives, o.alone = 0, 0, time.Time{}
		return nil
	}
	for region, f := range e.Found {
		if region != t.region {
			o.said[region] = testified{f, now}
		}
	}
	switch t.conclude(e.Region, o, e.Found[t.region], now) {
	case foundNothing:
	case foundDead:
		o.deaths, o.lives = o.deaths+1, 0
	case foundLiving:
		o.deaths, o.lives = 0, o.lives+1
	}
	switch {
	case !o.down && o.deaths >= roundsToTurn:
		o.down = true
		return t.turned(e.Region, o, o.grounds(t.region, e.Found[t.region], now), now)
	case o.down && o.lives >= roundsToTurn:
		o.down = false
		return t.turned(e.Region, o, "its servers answer probes again, view updates are still missing", now)
	}
	return nil
}

// conclude weighs what was found here against what others have said.
func (t *Table) conclude(name string, o *otherRegion, own Finding, now time.Time) finding {
	others := t.reachable(name)
	agree, asked := 0, true
	for _, region := range others {
		if age, ok := t.others[region].age(name, now); ok && age < t.detection.Unreachable {
			o.alone = time.Time{}
			return foundLiving // it is heard there
		}
		if o.polled[region].IsZero() {
			asked = false
		}
		if s, ok := o.said[region]; ok && now.Sub(s.at) < saidHolds {
			if !s.dead() {
				o.alone = time.Time{}
				return foundLiving
			}
			agree++
		}
	}
	switch {
	case own.Good+own.Failed == 0:
		return foundNothing
	case !own.dead():
		o.alone = time.Time{}
		return foundLiving
	case len(others) > 0:
		o.alone = time.Time{}
		if agree > 0 && asked {
			return foundDead
		}
		return foundNothing
	case o.alone.Before(t.gap) || o.alone.IsZero():
		o.alone = o.held
	}
	if now.Sub(o.alone) >= t.detection.Alone {
		return foundDead
	}
	return foundNothing
}

// grounds says why a region is down.
func (o *otherRegion) grounds(here string, own Finding, now time.Time) string {
	lines := []string{fmt.Sprintf("%d of %d from %s", own.Failed, own.Good+own.Failed, here)}
	for _, region := range sortedKeys(o.said) {
		if s := o.said[region]; now.Sub(s.at) < saidHolds {
			lines = append(lines, fmt.Sprintf("%d of %d from %s", s.Failed, s.Good+s.Failed, region))
		}
	}
	return "no view update, and its servers fail probes: " + strings.Join(lines, ", ")
}
