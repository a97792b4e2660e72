package tokens

import (
	"time"

	"github.com/berthhq/berth/tokens/api"
)

// KeyLine is the history of a region's keys, for its tests.
type KeyLine map[string]api.KeyLife

// VerifyLife is how long a key verifies after another took over.
const VerifyLife = verifyLife

func (l KeyLine) Signing(now time.Time) string             { return keyLine(l).signing(now) }
func (l KeyLine) Pending(now time.Time) string             { return keyLine(l).pending(now) }
func (l KeyLine) State(kid string, now time.Time) KeyState { return keyLine(l).state(kid, now) }
func (l KeyLine) MaySign(kid string, now time.Time) bool   { return keyLine(l).maySign(kid, now) }
func (l KeyLine) Verifies(kid string, now time.Time) bool  { return keyLine(l).verifies(kid, now) }
func (l KeyLine) SignsUntil(kid string) time.Time          { return keyLine(l).signsUntil(kid) }
