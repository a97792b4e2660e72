package events

// Marshal encodes an event without a look at what it says.
func Marshal(e Event) ([]byte, error) { return marshal(e) }
