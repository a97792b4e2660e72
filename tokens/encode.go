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
	if r.Fallbacks == nil {
		w.Any("fallbacks", nil)
	} else {
		w.Array("fallbacks")
		for _, f := range r.Fallbacks {
			w.Open()
			w.String("region", f.Region)
			w.String("url", f.URL)
			w.Close()
		}
		w.End()
	}
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
	var had wire.Fields
	s.Open()
	for first := true; s.OK(); first = false {
		key, more := s.Key(first)
		if !more {
			break
		}
		once := true
		switch string(key) {
		case "refreshToken":
			once, r.RefreshToken = had.Add(0), s.Keep("")
		case "closestServerId":
			once, r.ClosestServerID = had.Add(1), s.Keep("")
		case "criticalTaskInProgress":
			once, r.CriticalTaskInProgress = had.Add(2), s.Bool()
		case "failedServerId":
			once, r.FailedServerID = had.Add(3), s.Keep("")
		case "bookmark":
			once, r.Bookmark = had.Add(4), s.Keep("")
		case "rttMs":
			once, r.RTTMs = had.Add(5), scanTimes(&s)
		default:
			s.Unknown(key)
		}
		if !once {
			s.Stop()
		}
	}
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
