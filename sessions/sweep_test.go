package sessions_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// nobody is a region's peers while none answers.
type nobody struct{}

func (nobody) Ask(context.Context, string, sessions.Question) (sessions.Reply, error) {
	return sessions.Reply{}, errors.New("nobody answers")
}

// copyList is all that was copied.
type copyList []sessions.Copy

func (l copyList) Copies(context.Context, sessions.Key) ([]sessions.Copy, error) { return l, nil }

// TestSweepOfATakenSession: the server of the region that a session was taken from is told until that
// region shows that it knows.
func TestSweepOfATakenSession(t *testing.T) {
	epoch := func(number uint64, region string) events.Epoch { return events.Epoch{Number: number, Region: region} }
	theirs := func(state sessions.State, e events.Epoch, server string) sessions.Copy {
		return sessions.Copy{Region: "eu", Record: sessions.Record{
			Version: sessions.RecordVersion, Session: key.Session, Jurisdiction: key.Jurisdiction, State: state, Epoch: e, Gen: 2,
			Server: server, Answer: sessions.Answer{Server: server, Region: "eu"},
		}}
	}
	for _, c := range []struct {
		name   string
		copies copyList
		from   string // the place that the client has left
		source string
		gone   bool   // no copies come from there any more
		told   string // the server, empty if none
		want   bool
	}{
		{name: "as it was taken", copies: copyList{theirs(sessions.StateActive, epoch(1, "eu"), "eu-a")}, told: "eu-a"},
		{name: "it has gone on, on another server", copies: copyList{theirs(sessions.StateActive, epoch(2, "eu"), "eu-b")}, from: "eu-a", told: "eu-b"},
		{name: "it hands over", copies: copyList{theirs(sessions.StateMoving, epoch(1, "eu"), "eu-a")}, told: "eu-a"},
		{name: "it knows", copies: copyList{theirs(sessions.StateMoved, epoch(3, "us"), "us-a")}, want: true},
		{name: "it knows of the epoch before", copies: copyList{theirs(sessions.StateMoved, epoch(2, "us"), "us-a")}, want: true},
		{name: "it has given the session to a third", copies: copyList{theirs(sessions.StateMoved, epoch(2, "ap"), "ap-a")}, want: true},
		{name: "what it gave away long before", copies: copyList{theirs(sessions.StateMoved, epoch(1, "ap"), "ap-a")}, told: "ap-a"},
		{name: "no copy", from: "eu-a", told: "eu-a"},
		{name: "a region that is gone for good", gone: true, from: "eu-a", want: true},
		{name: "no copy, nor a word of the server"},
		{name: "no copy, and another has taken it", source: "ap", from: "ap-a", want: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newMemory()
			rec := sessions.Start(sessions.Record{Session: key.Session, Jurisdiction: key.Jurisdiction, ExpiresAt: noon.Add(time.Hour)},
				"us", sessions.Answer{Server: "us-a", Region: "us", From: events.Home{Server: c.from, Region: "eu"}}, "op", noon)
			rec.Epoch, rec.Source = epoch(3, "us"), c.source
			rec.Taken = []sessions.Stamp{{Epoch: epoch(1, "eu"), Gen: 2}, {Epoch: epoch(1, "us"), Gen: 1}}
			var told []sessions.Yield
			o, err := sessions.NewOwner(sessions.Config{
				Region: "us", Store: store, Now: func() time.Time { return noon }, NewOp: func() string { return "new" },
				Copies: c.copies, Peers: nobody{}, Edge: func(string) bool { return !c.gone }, Unheard: func(y sessions.Yield) { told = append(told, y) },
			})
			if err == nil {
				err = o.Create(t.Context(), rec)
			}
			if err != nil {
				t.Fatal(err)
			}
			settled, err := o.Sweep(t.Context(), key, nil)
			if err != nil || settled != c.want {
				t.Errorf("settled: %t, %v; want %t", settled, err, c.want)
			}
			switch {
			case c.told == "" && len(told) > 0, c.told != "" && len(told) != 1:
				t.Errorf("told %d times, want %q", len(told), c.told)
			case c.told != "" && (told[0].Before.Answer.Server != c.told || told[0].After.Epoch != rec.Epoch):
				t.Errorf("told %s of %v, want %s", told[0].Before.Answer.Server, told[0].After.Epoch, c.told)
			}
		})
	}
}
