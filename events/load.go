package events

// cpuFull is the share of the processors at which a server counts as full.
const cpuFull = 0.8

// Utilised returns what the load amounts to, as one fraction of what the server can bear: the
// greatest of sessions/capacity, in_flight/max_in_flight (where that is known) and cpu/0.8.
func (l Load) Utilised(capacity int) float64 {
	u := l.CPU / cpuFull
	if capacity > 0 {
		u = max(u, float64(l.Sessions)/float64(capacity))
	}
	if l.MaxInFlight > 0 {
		u = max(u, float64(l.InFlight)/float64(l.MaxInFlight))
	}
	return u
}

// Names of the fields of Load, as they stand in JSON and in LoadReport.Fields.
const (
	LoadSessions    = "sessions"
	LoadInFlight    = "in_flight"
	LoadMaxInFlight = "max_in_flight"
	LoadCPU         = "cpu"
	LoadP99         = "p99_ms"
	LoadUtilisation = "utilisation"
)

// LoadFields returns the names of the fields of Load, in the order in which they stand there.
func LoadFields() []string {
	return []string{LoadSessions, LoadInFlight, LoadMaxInFlight, LoadCPU, LoadP99, LoadUtilisation}
}

// Field returns the field of that name, false if there is none.
func (l *Load) Field(name string) (float64, bool) {
	switch name {
	case LoadSessions:
		return float64(l.Sessions), true
	case LoadInFlight:
		return float64(l.InFlight), true
	case LoadMaxInFlight:
		return float64(l.MaxInFlight), true
	case LoadCPU:
		return l.CPU, true
	case LoadP99:
		return l.P99, true
	case LoadUtilisation:
		return l.Utilisation, true
	}
	return 0, false
}

// SetField sets the field of that name and reports whether there is one. Counts take the whole
// part of the value.
func (l *Load) SetField(name string, value float64) bool {
	switch name {
	case LoadSessions:
		l.Sessions = int(value)
	case LoadInFlight:
		l.InFlight = int(value)
	case LoadMaxInFlight:
		l.MaxInFlight = int(value)
	case LoadCPU:
		l.CPU = value
	case LoadP99:
		l.P99 = value
	case LoadUtilisation:
		l.Utilisation = value
	default:
		return false
	}
	return true
}
