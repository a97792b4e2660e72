package events

// Role says when a region takes sessions.
type Role string

// The roles of a region.
const (
	// RoleActive takes sessions. The empty role is active.
	RoleActive Role = "active"
	// RoleStandby takes sessions only while no active region that a session may use has a
	// usable server.
	RoleStandby Role = "standby"
)

// Valid reports whether r is one of the roles, or empty.
func (r Role) Valid() bool { return r == "" || r == RoleActive || r == RoleStandby }

// FullWeight is the weight of a region that nobody has given one: of the sessions that are
// elsewhere, each may come to it. Of a lower weight that is the share in percent.
const FullWeight = 100

// WeightOf reads an optional weight.
func WeightOf(w *int) int {
	if w == nil {
		return FullWeight
	}
	return *w
}

func checkRegion(role Role, weight *int) error {
	if !role.Valid() {
		return malformed("role %q: want %s or %s", role, RoleActive, RoleStandby)
	}
	if w := WeightOf(weight); w < 0 || w > FullWeight {
		return malformed("weight %d: want 0 to %d", w, FullWeight)
	}
	return nil
}
