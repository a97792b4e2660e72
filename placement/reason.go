package placement

// Verdict is what becomes of a session's lock.
type Verdict string

// The verdicts.
const (
	// VerdictStay leaves the session where it is.
	VerdictStay Verdict = "stay"
	// VerdictMove locks the session to another server, or, at a login, to its first.
	VerdictMove Verdict = "move"
)

// Reason says why. It is also the log field, the metric label and the last token of the
// decision's subject.
type Reason string

// Reasons to stay.
const (
	// ReasonCriticalTask: the client says that a critical task is in progress, and its bound
	// has not passed.
	ReasonCriticalTask Reason = "critical_task"
	// ReasonAlreadyBest: no server of the region has less load.
	ReasonAlreadyBest Reason = "already_best"
	// ReasonWithinBand: another server is better, but not by enough, or the draw has not
	// chosen this session to go; also the answer of a server whose sessions nothing asks to
	// leave now (suspect, or draining and not this session's turn).
	ReasonWithinBand Reason = "within_band"
	// ReasonCooldown: another region is closer, but the last move was too recent.
	ReasonCooldown Reason = "cooldown"
	// ReasonReplicaBehind: the destination's replica has not reached the session's bookmark.
	ReasonReplicaBehind Reason = "replica_behind"
	// ReasonViewStale: the view is too old to move sessions by, and the server was not found
	// dead.
	ReasonViewStale Reason = "view_stale"
	// ReasonNoCandidate: no other server could take the session.
	ReasonNoCandidate Reason = "no_candidate"
	// ReasonTargetRefused: the destination of a handover refused.
	ReasonTargetRefused Reason = "target_refused"
	// ReasonStoreUnavailable: the store had no leader, so nothing could be changed.
	ReasonStoreUnavailable Reason = "store_unavailable"
)

// Reasons to move.
const (
	// ReasonLogin: a new session gets its first server.
	ReasonLogin Reason = "login"
	// ReasonRebalance: the server carries more than its share of the region's load.
	ReasonRebalance Reason = "rebalance"
	// ReasonCloserRegion: another region is closer to the client.
	ReasonCloserRegion Reason = "closer_region"
	// ReasonRegionFull: the region is above its water level.
	ReasonRegionFull Reason = "region_full"
	// ReasonServerDraining: the server gives its sessions away.
	ReasonServerDraining Reason = "server_draining"
	// ReasonServerDown: the server is dead, or nobody knows it.
	ReasonServerDown Reason = "server_down"
	// ReasonRegionDown: the server is dead, and so is every other of its region.
	ReasonRegionDown Reason = "region_down"
	// ReasonUnreachable: the server lives, but this client twice could not reach it.
	ReasonUnreachable Reason = "unreachable_from_client"
	// ReasonResidency: the organization's data may not be in this region.
	ReasonResidency Reason = "residency"
	// ReasonCriticalExpired: a move that a critical task would have prevented, had its bound
	// not passed.
	ReasonCriticalExpired Reason = "critical_expired"
	// ReasonHomeRestored: the home region takes sessions again.
	ReasonHomeRestored Reason = "home_restored"
)
