package tokens

import (
	"github.com/berthhq/berth/events/wire"
	"github.com/berthhq/berth/tokens/api"
)

// appendReply appends a reply to buf as encoding/json writes it, without reflection. A test fails
// if a field is missing here.
func appendReply(buf []byte, r *api.TokensReply) ([]byte, error) {
	w := wire.NewWriter(buf)
	w.Open()
	w.String("accessToken", r.AccessToken)
	w.String("tokenType", r.TokenType)
	w.Int("expiresIn", int64(r.ExpiresIn))
	w.Filled("refreshToken", r.RefreshToken)
	if r.RefreshExpiresIn != 0 {
		w.Int("refreshExpiresIn", int64(r.RefreshExpiresIn))
	}
	w.String("sessionId", r.SessionID)
	w.Object("server")
	w.String("id", r.Server.ID)
	w.String("region", r.Server.Region)
	w.String("url", r.Server.URL)
	w.Close()
	w.String("authUrl", r.AuthURL)
	wire.Objects(&w, "fallbacks", r.Fallbacks, func(w *wire.Writer, f *api.Fallback) {
		w.String("region", f.Region)
		w.String("url", f.URL)
	})
	w.Bool("serverChanged", r.ServerChanged)
	w.String("decision", r.Decision)
	w.String("reason", r.Reason)
	w.Bool("rotated", r.Rotated)
	if n := r.Notice; n != nil {
		w.Object("notice")
		w.String("code", n.Code)
		w.String("message", n.Message)
		w.Int("syncedWithinSeconds", int64(n.SyncedWithinSeconds))
		w.Close()
	}
	w.Close()
	return w.Bytes()
}

// scanRefresh reads a request as encoding/json does, if it is as plain as clients send it. If
// not, it reports false, and r is empty.
func scanRefresh(data []byte, r *api.RefreshRequest) bool {
	s := wire.Scan(data)
	s.Object(func(key []byte) int {
		switch string(key) {
		case "refreshToken":
			r.RefreshToken = s.Keep("")
			return 0
		case "closestServerId":
			r.ClosestServerID = s.Keep("")
			return 1
		case "criticalTaskInProgress":
			r.CriticalTaskInProgress = s.Bool()
			return 2
		case "failedServerId":
			r.FailedServerID = s.Keep("")
			return 3
		case "bookmark":
			r.Bookmark = s.Keep("")
			return 4
		case "rttMs":
			r.RTTMs = scanTimes(&s)
			return 5
		default: // a newer client's
			s.Ignore(key)
			return wire.Ignored
		}
	})
	if !s.End() {
		*r = api.RefreshRequest{}
		return false
	}
	return true
}

// scanTimes reads numbers by name.
func scanTimes(s *wire.Scanner) map[string]float64 {
	m := map[string]float64{}
	s.Open()
	for first := true; s.OK(); first = false {
		key, more := s.Key(first)
		if !more {
			break
		}
		m[string(key)] = s.Float()
	}
	return m
}
