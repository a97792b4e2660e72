package tokens

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/sessions"
)

var dawn = time.Date(2026, 11, 20, 6, 0, 0, 0, time.UTC)

func sessionNamed(name string) sessions.Key {
	return sessions.Key{Jurisdiction: "global", Session: name}
}

// due takes what is to be looked at by now, and how long until more is.
func (a *agenda) due(now time.Time) (list []string, next time.Duration) {
	for {
		key, next, ok := a.pop(now)
		if !ok {
			return list, next
		}
		list = append(list, key.Session)
	}
}

func wantDue(t *testing.T, a *agenda, after time.Duration, want ...string) {
	t.Helper()
	if got, _ := a.due(dawn.Add(after)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("after %s: %v are due, want %v", after, got, want)
	}
}

// TestNewsDuringALookIsLookedAt: what is added while it is looked at is due once more, whatever
// that look has found.
func TestNewsDuringALookIsLookedAt(t *testing.T) {
	for _, settled := range []bool{true, false} {
		a := newAgenda(10)
		a.add(sessionNamed("s"), dawn)
		wantDue(t, a, sweepFirst, "s")
		a.add(sessionNamed("s"), dawn.Add(sweepFirst))
		wantDue(t, a, time.Hour) // not twice at one time
		a.done(sessionNamed("s"), settled, dawn.Add(time.Minute))
		wantDue(t, a, time.Minute+sweepFirst-1)
		wantDue(t, a, time.Minute+sweepFirst, "s")
		a.done(sessionNamed("s"), true, dawn.Add(time.Hour))
		if _, next := a.due(dawn.Add(2 * time.Hour)); next != sweepLast || len(a.all) > 0 {
			t.Errorf("settled without news: %d remain, next in %s", len(a.all), next)
		}
	}
}

// TestNewsBringsForward: a session that was put off is due soon again when there is news of it.
func TestNewsBringsForward(t *testing.T) {
	a := newAgenda(10)
	a.add(sessionNamed("s"), dawn)
	now := dawn
	var pauses []time.Duration
	for range 9 { // ever more rarely
		_, next := a.due(now)
		now = now.Add(next)
		pauses = append(pauses, next)
		if got, _ := a.due(now); len(got) != 1 {
			t.Fatalf("%v are due", got)
		}
		a.done(sessionNamed("s"), false, now)
	}
	for i, pause := range pauses[1:] {
		if want := min(sweepFirst<<i, sweepLast); pause != want {
			t.Errorf("pause %d is %s, want %s", i+1, pause, want)
		}
	}
	a.add(sessionNamed("s"), now)
	if _, next := a.due(now); next != sweepFirst {
		t.Errorf("after the news it is due in %s", next)
	}
	a.add(sessionNamed("s"), now.Add(sweepFirst/2)) // more news puts nothing off
	if got, _ := a.due(now.Add(sweepFirst)); len(got) != 1 {
		t.Errorf("%v are due", got)
	}
	a.done(sessionNamed("s"), false, now)
	if _, next := a.due(now); next != sweepFirst {
		t.Errorf("after the look it is due in %s", next)
	}
}

// TestManyAreQuick: to add and to take does not go through all that wait. A hundred thousand took
// minutes when it did.
func TestManyAreQuick(t *testing.T) {
	a := newAgenda(maxUnsettled)
	began := time.Now()
	for i := range maxUnsettled {
		a.add(sessionNamed(fmt.Sprint(i)), dawn.Add(time.Duration(i)))
		a.pop(dawn)
	}
	if a.add(sessionNamed("one more"), dawn) || a.addPatient(sessionNamed("one more"), dawn) || !a.left {
		t.Error("there is no bound")
	}
	now := dawn.Add(time.Hour)
	for i := range maxUnsettled {
		key, _, ok := a.pop(now)
		if !ok || key.Session != fmt.Sprint(i) {
			t.Fatalf("number %d is %s, %t", i, key, ok)
		}
		a.done(key, true, now)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestThePatientTakeTurns: those that nobody waits for are looked at one by one, and never keep
// others waiting.
func TestThePatientTakeTurns(t *testing.T) {
	a := newAgenda(1000)
	for i := range 500 {
		a.addPatient(sessionNamed(fmt.Sprint("patient", i)), dawn)
	}
	now := dawn.Add(sweepFirst)
	a.add(sessionNamed("news"), dawn)
	a.add(sessionNamed("patient499"), dawn)
	if got, next := a.due(now); fmt.Sprint(got) != "[news patient499 patient0]" && fmt.Sprint(got) != "[patient499 news patient0]" || next != patientEvery {
		t.Errorf("%v are due, the next in %s", got, next)
	}
	looks := 0
	for end := now.Add(time.Second); now.Before(end); {
		key, next, ok := a.pop(now)
		if !ok {
			now = now.Add(next)
			continue
		}
		looks++
		a.done(key, false, now)
	}
	if most := int(time.Second/patientEvery) + 1; looks > most || looks < most-2 {
		t.Errorf("%d looks in a second, want %d", looks, most)
	}
}

// TestNewsFindsRoom: those with patience take half the room, and give that to others.
func TestNewsFindsRoom(t *testing.T) {
	a := newAgenda(10)
	for i := range 8 {
		if a.addPatient(sessionNamed(fmt.Sprint("patient", i)), dawn) != (i < 5) {
			t.Errorf("patient %d", i)
		}
	}
	a.left = false
	for i := range 10 {
		if !a.add(sessionNamed(fmt.Sprint("news", i)), dawn) || a.left != (i >= 5) || len(a.all) > 10 {
			t.Errorf("news %d: %d are remembered, some left out: %t", i, len(a.all), a.left)
		}
	}
	if a.add(sessionNamed("one more"), dawn) {
		t.Error("there is no bound")
	}
}

// TestAgendaIsFair compares the agenda, over any schedule, with a list that is searched through.
func TestAgendaIsFair(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, now := newAgenda(4), dawn
		news, looked := map[string]bool{}, map[string]bool{} // since the last look began; being looked at
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(rt, "session")
			switch rapid.SampledFrom([]string{"add", "patient", "pop", "done", "wait"}).Draw(rt, "do") {
			case "add":
				if a.add(sessionNamed(name), now) {
					news[name] = true
				}
			case "patient":
				a.addPatient(sessionNamed(name), now)
			case "pop":
				if key, next, ok := a.pop(now); !ok {
					if next <= 0 || next > sweepLast {
						rt.Fatalf("nothing is due for %s", next)
					}
				} else if looked[key.Session] {
					rt.Fatalf("%s is looked at twice at one time", key)
				} else {
					looked[key.Session] = true
					delete(news, key.Session)
				}
			case "done":
				if looked[name] {
					delete(looked, name)
					a.done(sessionNamed(name), rapid.Bool().Draw(rt, "settled"), now)
				}
			default:
				now = now.Add(rapid.SampledFrom([]time.Duration{patientEvery, sweepFirst, time.Second, time.Minute}).Draw(rt, "pause"))
			}
			if n := len(a.soon) + len(a.patient) + len(looked); n != len(a.all) || n > 4 {
				rt.Fatalf("%d are remembered, %d are in their places", len(a.all), n)
			}
		}
		for name := range looked {
			a.done(sessionNamed(name), true, now)
		}
		got, _ := a.due(now.Add(sweepFirst))
		for _, name := range got {
			delete(news, name)
		}
		if len(news) > 0 {
			rt.Fatalf("news of %v is lost", news)
		}
	})
}
