package wire

// AppendString is appendString, for tests of what is escaped.
func AppendString(dst []byte, s string) []byte { return appendString(dst, s) }
