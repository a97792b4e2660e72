package bench

// The bounds of what is measured, for the tests of what is refused.
const (
	MaxServers  = maxServers
	MaxSessions = maxSessions
)

// The lengths in bytes of a token and of an answer of the echo, for the test that holds them to
// those of a token service.
const (
	TokenLength  = tokenLength
	AnswerLength = answerLength
)
