package placement_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
)

var update = flag.Bool("update", false, "write what the scripts in testdata/decide answer today")

// TestScripts runs testdata/decide. A file is a sequence of blocks, each of statements, a
// line "----" and the expected answer. Blocks are set apart by an empty line. The
// statements, where times are ages:
//
//	server ID [cap=N] [u=F] [state=S] [since=D] [until=D]
//	                                              adds or changes a server; region: ID less its last part; until: from now
//	region REGION [role=R] [weight=N]             sets a region
//	place REGION LAT LON                          says where the region's servers stand
//	policy [NAME] [max_rtt=MS] [bound=D] [cooldown=D] [deadline=D]
//	login, refresh [session=S] [gen=N] [at=ID] [arrived=R] [closest=ID] [from=LAT,LON]
//	    [rtt=ID:MS,…] [critical[=D]] [moved=D] [dead] [unreachable] [allowed=R,R]
//	odds refresh …                                the shares of the answers over 10 000 generations
//	odds logins …                                 likewise over 10 000 sessions
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/decide/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(data))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(data), got); diff != "" {
				t.Errorf("answers differ (-want +got):\n%s", diff)
			}
		})
	}
}

// script is what the statements of a file have said so far.
type script struct {
	t       *testing.T
	servers map[string]placement.Server
	places  map[string]events.Location
	set     map[string]placement.Setting
	policy  placement.Policy
	// many says that the odds are over sessions.
	many bool
}

// runScript returns the script with the answers of today.
func runScript(t *testing.T, text string) string {
	s := &script{t: t, servers: map[string]placement.Server{}, places: map[string]events.Location{}, set: map[string]placement.Setting{}}
	var out []string
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		statements, _, asks := strings.Cut(block, "\n----")
		var answer string
		for line := range strings.SplitSeq(statements, "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				answer += s.run(strings.Fields(line))
			}
		}
		if asks {
			statements += "\n----\n" + strings.TrimRight(answer, "\n")
		}
		out = append(out, statements)
	}
	return strings.Join(out, "\n\n") + "\n"
}

func (s *script) run(words []string) string {
	switch words[0] {
	case "server":
		s.server(words[1], words[2:])
	case "region":
		s.region(words[1], words[2:])
	case "place":
		s.places[words[1]] = events.Location{Lat: s.number(words[2]), Lon: s.number(words[3])}
	case "policy":
		s.setPolicy(words[1:])
	case "login", "refresh":
		return s.decide(s.request(words[1:]))
	case "odds":
		s.many = words[1] == "logins"
		return s.odds(s.request(words[2:]))
	default:
		s.t.Fatalf("statement %q", words)
	}
	return ""
}

func (s *script) server(id string, args []string) {
	server, ok := s.servers[id]
	if !ok {
		server = placement.Server{ID: id, Region: id[:strings.LastIndexByte(id, '-')], State: events.StateUp, Capacity: 1000, Utilisation: 0.5}
	}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "cap":
			server.Capacity = s.number(value)
		case "u":
			server.Utilisation = s.number(value)
		case "state":
			server.State = events.State(value)
		case "since":
			server.DrainingSince = s.ago(value)
		case "until":
			server.DrainUntil = noon.Add(s.duration(value))
		case "rejoined":
			server.RejoinedAt = s.ago(value)
		default:
			s.t.Fatalf("server argument %q", arg)
		}
	}
	s.servers[id] = server
}

func (s *script) region(name string, args []string) {
	set := placement.Setting{Region: name, Weight: events.FullWeight}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "role":
			set.Role = events.Role(value)
		case "weight":
			set.Weight = int(s.number(value))
		default:
			s.t.Fatalf("region argument %q", arg)
		}
	}
	s.set[name] = set
}

func (s *script) setPolicy(args []string) {
	s.policy = placement.Policy{}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "max_rtt":
			s.policy.MaxRTTMs = s.number(value)
		case "bound":
			s.policy.CriticalBound = s.duration(value)
		case "cooldown":
			s.policy.Cooldown = s.duration(value)
		case "return":
			s.policy.ReturnAfter = s.duration(value)
		case "deadline":
			s.policy.DrainDeadline = s.duration(value)
		default:
			s.policy.Name = arg
		}
	}
	if err := s.policy.Validate(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) request(args []string) placement.Request {
	r := placement.Request{Session: "s1", Generation: 1}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "session":
			r.Session = value
		case "gen":
			r.Generation = uint64(s.number(value))
		case "at":
			r.Server = value
		case "arrived":
			r.Arrived = value
		case "closest":
			r.ClosestServer = value
		case "from":
			lat, lon, _ := strings.Cut(value, ",")
			r.Location = &events.Location{Lat: s.number(lat), Lon: s.number(lon)}
		case "rtt":
			for pair := range strings.SplitSeq(value, ",") {
				id, ms, _ := strings.Cut(pair, ":")
				r.RTT = append(r.RTT, placement.RTT{ServerID: id, MS: s.number(ms)})
			}
		case "critical":
			r.Critical = true
			if value != "" {
				r.CriticalSince = s.ago(value)
			}
		case "moved":
			r.MovedAt = s.ago(value)
		case "dead":
			r.Dead = true
		case "home":
			r.Home = value
		case "unreachable":
			r.Unreachable = true
		case "stale":
			r.Stale = true
		case "allowed":
			r.Allowed = strings.Split(value, ",")
		default:
			s.t.Fatalf("request argument %q", arg)
		}
	}
	return r
}

func (s *script) view() placement.View {
	var list []placement.Server
	for _, server := range s.servers {
		server.Location = s.places[server.Region]
		list = append(list, server)
	}
	return placement.NewView(list, slices.Collect(maps.Values(s.set))...)
}

func (s *script) decide(r placement.Request) string {
	view := s.view()
	var b strings.Builder
	place := 0
	for _, c := range placement.Rank(r, &view, s.policy) {
		region := &view.Regions[c.Region]
		mark := "-"
		if c.Obstacle == placement.ObstacleNone {
			place++
			mark = strconv.Itoa(place)
		}
		fmt.Fprintf(&b, "%s %-15s %5.1f ms %s", mark, region.Name, c.MS, c.Basis)
		if c.Standby {
			b.WriteString(", standby")
		}
		if c.Withheld {
			b.WriteString(", withheld")
		}
		if c.Obstacle != placement.ObstacleNone {
			fmt.Fprintf(&b, ", %s", c.Obstacle)
		}
		b.WriteString("\n")
		for i, id := range region.ID {
			fmt.Fprintf(&b, "    %-17s %-8s %.2f of %4.0f", id, region.State[i], region.Utilisation[i], region.Capacity[i])
			if share := region.Share(i); share > 0 {
				fmt.Fprintf(&b, "  share %3.0f %%", 100*share)
			}
			b.WriteString("\n")
		}
	}
	d := placement.Decide(r, &view, s.policy, noon)
	fmt.Fprintf(&b, "%s, draw %.3f: %s\n", d.Policy, d.Draw, outcome(d))
	return b.String()
}

func outcome(d placement.Decision) string {
	server := d.Server
	if server == "" {
		server = "nowhere"
	}
	to := "at"
	if d.Verdict == placement.VerdictMove {
		to = "to"
	}
	return fmt.Sprintf("%s %s, %s %s", d.Verdict, d.Reason, to, server)
}

func (s *script) odds(r placement.Request) string {
	const generations = 10_000
	view := s.view()
	counts := map[string]int{}
	for r.Generation = range generations {
		if s.many {
			r.Session = "s" + strconv.FormatUint(r.Generation, 10)
		}
		counts[outcome(placement.Decide(r, &view, s.policy, noon))]++
	}
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%5.1f %%  %s\n", 100*float64(counts[what])/generations, what)
	}
	return b.String()
}

func (s *script) number(text string) float64 {
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return x
}

func (s *script) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *script) ago(text string) time.Time { return noon.Add(-s.duration(text)) }
