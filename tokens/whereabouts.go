package tokens

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/berthhq/berth/events"
)

// whereabouts returns where a client is: as it says, if that is believed, else as its address says; nil if neither does.
func (s *Service) whereabouts(c *call) *events.Location {
	if c.location != nil || s.cfg.GeoIP == nil {
		return c.location
	}
	address, ok := addressOf(c.address)
	if !ok {
		return nil
	}
	if at, ok := s.cfg.GeoIP.Locate(address); ok {
		return &at
	}
	return nil
}

// addressOf reads an address as it stands in a header or before a port: IPv6 perhaps in brackets. Some proxies add the port.
func addressOf(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		var port netip.AddrPort
		port, err = netip.ParseAddrPort(s)
		a = port.Addr()
	}
	return a.Unmap().WithZone(""), err == nil
}

// behindProxies returns the address of a client whose connection comes from peer. Each proxy has added to forwarded whom
// it was asked by, so the last entry that is no trusted proxy's is the client: what stands before it anybody can have
// written.
func (s *Service) behindProxies(peer string, forwarded []string) string {
	client := peer
	for _, line := range slices.Backward(forwarded) {
		for _, entry := range slices.Backward(strings.Split(line, ",")) {
			if !s.trusts(client) {
				return client
			}
			asked, ok := addressOf(entry)
			if !ok {
				return client // "unknown" is nobody to go by
			}
			client = asked.String()
		}
	}
	return client
}

// trusts reports whether an address is a proxy's whose word is believed.
func (s *Service) trusts(address string) bool {
	a, ok := addressOf(address)
	return ok && slices.ContainsFunc(s.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a) })
}
