package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// cutClient is a client that may stand on both sides of a cut.
type cutClient struct {
	// latest is the answer with its greatest token, which stands at at.
	latest api.TokensReply
	at     sessions.Stamp
	// held is the newest answer of each server that it was told of.
	held map[string]api.TokensReply
	// sure says that its last refresh was answered: what it knows is what its owner knows.
	sure bool
	// critical says that it always has a critical task in progress.
	critical bool
	// split says that it has another half, which knows nothing of it while the region is cut off, and
	// side where it stands then; granted that it was refreshed there.
	split   *cutClient
	side    string
	granted bool
}

// take goes on from an answer.
func (s *cutClient) take(t *testing.T, reply api.TokensReply) {
	if s.held == nil {
		s.held = map[string]api.TokensReply{}
	}
	at := place(t, reply.RefreshToken)
	if s.at.Less(at) {
		s.latest, s.at = reply, at
	}
	if old, ok := s.held[reply.Server.ID]; !ok || place(t, old.RefreshToken).Less(at) {
		s.held[reply.Server.ID] = reply
	}
}

// step refreshes once, through a region, and asks to be moved now and then. Whoever is on one side
// of a cut asks for nothing beyond it.
func (c *cutting) step(s *cutClient, through string, apart bool) {
	q := api.RefreshRequest{RefreshToken: s.latest.RefreshToken, CriticalTaskInProgress: s.critical || rand.IntN(8) == 0}
	if s.critical || rand.IntN(3) == 0 && (!apart || s.split == nil) {
		q.ClosestServerID = c.names[rand.IntN(len(c.names))] + "-a"
	}
	before := s.latest
	reply, status, text := c.refresh(through, q)
	c.count(fmt.Sprintf("%s %d %s", c.side(through), status, reply.Reason))
	alone := s.split == nil || apart // nobody else refreshes by the same token
	switch {
	case status == http.StatusOK && !reply.Rotated:
		s.sure = false
		s.take(c.t, reply)
	case status == http.StatusOK:
		s.granted = true
		c.granted(s, q, before, reply, alone)
		if alone && rand.IntN(4) == 0 {
			c.again(s, through, q, reply)
		}
		s.sure = true
	case status == http.StatusConflict && !alone:
	case status == http.StatusServiceUnavailable:
		s.sure = false
	default:
		c.t.Errorf("session %s through %s: %d %s", before.SessionID, through, status, text)
	}
}

// granted takes an answer, if it is one that the client may be given.
func (c *cutting) granted(s *cutClient, q api.RefreshRequest, before, reply api.TokensReply, alone bool) {
	if q.CriticalTaskInProgress && s.sure && s.split == nil && reply.Server.ID != before.Server.ID && !mayMoveCritical(reply.Reason) {
		c.t.Errorf("session %s has a critical task and is told to leave %s for %s: %s", before.SessionID, before.Server.ID, reply.Server.ID, reply.Reason)
	}
	s.take(c.t, reply)
	c.found(reply, alone)
}

// found checks that a client which was told of a server finds its session there.
func (c *cutting) found(reply api.TokensReply, alone bool) {
	status, text := c.use(reply)
	if status != http.StatusCreated && (alone || status != http.StatusMisdirectedRequest) {
		c.t.Errorf("session %s was told of %s for %s, which answers %d %s", reply.SessionID, reply.Server.ID, reply.Reason, status, text)
	}
	if !reply.ServerChanged {
		return
	}
	at := place(c.t, reply.RefreshToken)
	key := sessions.Key{Jurisdiction: events.GlobalJurisdiction, Session: reply.SessionID}
	rec, _, err := c.records[at.Epoch.Region].Get(c.t.Context(), key)
	if err != nil || rec.Epoch.Compare(at.Epoch) < 0 {
		c.t.Errorf("session %s was told of %s, at %s: its region holds %s %s, %v", reply.SessionID, reply.Server.ID, at, rec.State, rec.Current(), err)
	}
}

// again repeats a refresh that was answered: the answer is the same, byte for byte where the same
// region gives it, unless the session has been taken over meanwhile.
func (c *cutting) again(s *cutClient, through string, q api.RefreshRequest, first api.TokensReply) {
	second, status, text := c.refresh(through, q)
	if status == http.StatusServiceUnavailable || status == http.StatusOK && !second.Rotated {
		return // out of reach by now, or its store is
	}
	if status != http.StatusOK {
		c.t.Errorf("session %s, a repeat through %s: %d %s", first.SessionID, through, status, text)
		return
	}
	was, is := place(c.t, first.RefreshToken), place(c.t, second.RefreshToken)
	same := second.RefreshToken == first.RefreshToken && second.AccessToken == first.AccessToken
	switch {
	case same:
		c.count("repeated")
	case was == is && signer(first) != signer(second) &&
		second.Server == first.Server && second.Decision == first.Decision && second.Reason == first.Reason:
		c.count("repeated by another region")
	case was.Epoch.Compare(is.Epoch) < 0 && second.Reason == string(placement.ReasonRegionDown):
		c.count("repeated after a takeover")
		s.take(c.t, second)
	default:
		c.t.Errorf("session %s through %s: answered %s on %s, and repeated %s on %s", first.SessionID, through, was, first.Server.ID, is, second.Server.ID)
	}
}

// signer returns the head of a reply's refresh token, which names the key.
func signer(reply api.TokensReply) string {
	head, _, _ := strings.Cut(reply.RefreshToken, ".")
	return head
}

// sleeper is a session whose client is silent for so long that nothing is repeated any more.
type sleeper struct {
	// tokens are its refresh tokens, oldest first; since is when it got the last.
	tokens []string
	since  time.Time
	id     string
}

// sleepers begins two sessions and refreshes each twice: a token older than the one redeemed last
// is a slow tab's, until then.
func (c *cutting) sleepers() (list [2]sleeper) {
	for i, s := range c.begin(c.lost, len(list)) {
		tokens := []string{s.RefreshToken}
		for k := range 2 {
			reply, status, text := c.refresh(c.lost, api.RefreshRequest{RefreshToken: tokens[k]})
			if status != http.StatusOK {
				c.t.Fatalf("refresh %d of a session: %d %s", k, status, text)
			}
			tokens = append(tokens, reply.RefreshToken)
		}
		list[i] = sleeper{tokens, time.Now(), s.SessionID}
		if _, status, text := c.refresh(c.lost, api.RefreshRequest{RefreshToken: tokens[0]}); status != http.StatusConflict {
			c.t.Errorf("a slow tab's token: %d %s", status, text)
		}
	}
	return list
}

// wake presents the tokens of sessions that have been silent. The one redeemed last is good for
// as long as nobody has presented its successor, which is dead then; that one, and any that is
// older, ends the session.
func (c *cutting) wake(list [2]sleeper) {
	c.t.Helper()
	eventually(c.t, sessions.Window+time.Second, "the end of the time for which answers are repeated", func() bool {
		return time.Since(list[1].since) > sessions.Window
	})
	late, stolen := list[0], list[1]
	if _, status, text := c.refresh(c.others[0], api.RefreshRequest{RefreshToken: late.tokens[1]}); status != http.StatusOK {
		c.t.Errorf("a token whose answer was lost: %d %s", status, text)
	}
	for _, theft := range []struct{ session, token string }{{late.id, late.tokens[2]}, {stolen.id, stolen.tokens[0]}} {
		_, status, text := c.refresh(c.others[0], api.RefreshRequest{RefreshToken: theft.token})
		if status != http.StatusUnauthorized || !strings.Contains(text, string(api.CodeRefreshReused)) {
			c.t.Errorf("a dead or old token of session %s: %d %s", theft.session, status, text)
		}
	}
	c.awaitOwners(cutSettles, []fate{{late.id, true}, {stolen.id, true}})
}

// endedSession is a session that was ended while a region was cut off.
type endedSession struct{ api.TokensReply }

// endSome ends four sessions of the region that is cut off: two there, one outside before and one
// after it was taken over. Each end holds at once where it was acknowledged.
func (c *cutting) endSome(list []api.TokensReply) {
	outside := c.others[0]
	eventually(c.t, cutSettles, "a takeover", func() bool {
		reply, status, _ := c.refresh(outside, api.RefreshRequest{RefreshToken: list[3].RefreshToken})
		if status == http.StatusOK {
			list[3] = reply
		}
		return status == http.StatusOK
	})
	for i, s := range list {
		where := c.lost
		if i >= 2 {
			where = outside
		}
		if status, text := c.post(c.regions[where].way.URL+"/v1/logout", "", api.LogoutRequest{RefreshToken: s.RefreshToken}, nil); status != http.StatusNoContent {
			c.t.Errorf("logout in %s: %d %s", where, status, text)
			continue
		}
		acknowledged := time.Now()
		if _, status, text := c.refresh(where, api.RefreshRequest{RefreshToken: s.RefreshToken}); status != http.StatusUnauthorized {
			c.t.Errorf("session %s has ended in %s, and is refreshed there: %d %s", s.SessionID, where, status, text)
		}
		if s.Server.Region == where {
			// Its word is on the way to the server when the acknowledgement is.
			eventually(c.t, time.Second, "a refusal of an ended session by "+s.Server.ID, func() bool {
				status, _ := c.use(s)
				return status == http.StatusUnauthorized
			})
			c.heard = max(c.heard, time.Since(acknowledged))
		}
		c.ended = append(c.ended, endedSession{s})
	}
}

// stayEnded waits until every region refuses the sessions that have ended, and so do their servers.
func (c *cutting) stayEnded(limit time.Duration) {
	c.t.Helper()
	awaitAll(c.t, limit, "the end of sessions everywhere", c.ended, func(s endedSession) string {
		for _, name := range c.names {
			if _, status, text := c.refresh(name, api.RefreshRequest{RefreshToken: s.RefreshToken}); status != http.StatusUnauthorized {
				return fmt.Sprintf("session %s through %s: %d %s", s.SessionID, name, status, text)
			}
		}
		if status, text := c.use(s.TokensReply); status != http.StatusUnauthorized {
			return fmt.Sprintf("session %s at %s: %d %s", s.SessionID, s.Server.ID, status, text)
		}
		return ""
	})
}
