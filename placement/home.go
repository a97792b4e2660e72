package placement

// HomeAfter returns the region that a session counts as its home, Request.Home, after a move from one region to another
// for a reason, where home was it before; empty: none. Load or a failure makes it the region that they send the session
// away from, and it stays that one wherever they send the session next. Once the session is back it has none, nor when it
// follows its client, or what its organization allows, elsewhere.
//
// A client that cannot reach its server, and a task that was in the way of a move for too long, say nothing of the region.
func HomeAfter(home, from, to string, why Reason) string {
	switch {
	case from == to || from == "":
		return home
	case to == home:
		return ""
	}
	switch why {
	case ReasonRegionFull, ReasonServerDraining, ReasonServerDown, ReasonRegionDown:
		if home == "" {
			return from
		}
		return home
	case ReasonUnreachable, ReasonCriticalExpired:
		return home
	default:
		return ""
	}
}
