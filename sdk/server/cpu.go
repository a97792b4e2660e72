package server

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// cpuMeter measures the share of its processors that a server has in use: of its cgroup's
// quota (version 2) where it has one, else of the machine's, which it shares with others.
// Elsewhere than on Linux it measures nothing and says 0.
type cpuMeter struct {
	root fs.FS
	// busy and total are the last reading.
	busy, total float64
}

func newCPUMeter() cpuMeter { return cpuMeter{root: os.DirFS("/")} }

// share returns the share in use since the last call, 0 to 1; 0 at the first.
func (m *cpuMeter) share(now time.Time) float64 {
	busy, total, err := m.readCgroup(now)
	if err != nil {
		busy, total, err = m.readMachine()
	}
	if err != nil {
		return 0
	}
	busySince, totalSince := busy-m.busy, total-m.total
	first := m.total == 0
	m.busy, m.total = busy, total
	if first || totalSince <= 0 {
		return 0
	}
	return min(max(busySince/totalSince, 0), 1)
}

var errNoQuota = errors.New("no quota")

// readCgroup returns the microseconds that the cgroup has used, and those it could have used
// by now, counted from the Unix epoch.
func (m *cpuMeter) readCgroup(now time.Time) (busy, total float64, err error) {
	own, err := fs.ReadFile(m.root, "proc/self/cgroup")
	if err != nil {
		return 0, 0, err
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(string(own)), "0::/")
	if !ok || strings.Contains(path, "\n") {
		return 0, 0, errNoQuota // version 1
	}
	dir := strings.TrimSuffix("sys/fs/cgroup/"+path, "/")
	quota, err := fs.ReadFile(m.root, dir+"/cpu.max")
	if err != nil {
		return 0, 0, err
	}
	limit, err := numbers(string(quota)) // "max 100000" without a quota
	if err != nil || len(limit) != 2 || limit[1] == 0 {
		return 0, 0, errNoQuota
	}
	stat, err := fs.ReadFile(m.root, dir+"/cpu.stat")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(stat)) {
		if rest, ok := strings.CutPrefix(line, "usage_usec "); ok {
			busy, err = strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return busy, float64(now.UnixMicro()) * limit[0] / limit[1], err
		}
	}
	return 0, 0, errNoQuota
}

// readMachine returns the ticks that all processors were busy, and all ticks.
func (m *cpuMeter) readMachine() (busy, total float64, err error) {
	stat, err := fs.ReadFile(m.root, "proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	rest, ok := strings.CutPrefix(line, "cpu ")
	if !ok {
		return 0, 0, errors.New("proc/stat does not begin with all processors")
	}
	ticks, err := numbers(rest)
	if err != nil || len(ticks) < 5 {
		return 0, 0, errors.New("proc/stat has too few numbers")
	}
	// user nice system idle iowait irq softirq steal; guest times are part of user's.
	for i, n := range ticks[:min(len(ticks), 8)] {
		total += n
		if i != 3 && i != 4 {
			busy += n
		}
	}
	return busy, total, nil
}

func numbers(s string) ([]float64, error) {
	var list []float64
	for f := range strings.FieldsSeq(s) {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}
