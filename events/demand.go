package events

import (
	"math"
	"time"
)

// maxOrigins bounds the regions that a message names, so that memory stays bounded.
const maxOrigins = 256

// Demand says how many sessions a token service serves, by the region closest to them: what is
// asked of a region, wherever its sessions are for want of room.
type Demand struct {
	Version int    `json:"version"`
	Region  string `json:"region"`
	// Service is the token service's own name, of this start.
	Service string    `json:"service"`
	At      time.Time `json:"at"`
	// Origins holds the sessions of each region of origin that has any.
	Origins map[string]float64 `json:"origins"`
}

// Subject returns demand.<region>.
func (d *Demand) Subject() Subject { return Subject{Kind: KindDemand, Region: d.Region} }

func (d *Demand) check() error {
	if err := checkHeader(d.Version, d.At); err != nil {
		return err
	}
	if err := checkTokens([2]string{"region", d.Region}, [2]string{"service", d.Service}); err != nil {
		return err
	}
	return checkOrigins("origins", d.Origins)
}

// checkOrigins returns the first fault of numbers by region.
func checkOrigins(field string, m map[string]float64) error {
	if len(m) > maxOrigins {
		return malformed("%s: %d regions, at most %d are read", field, len(m), maxOrigins)
	}
	for region, n := range m {
		if err := checkTokens([2]string{field, region}); err != nil {
			return err
		}
		if !(n >= 0) || math.IsInf(n, 0) {
			return malformed("%s of %s: %v", field, region, n)
		}
	}
	return nil
}
