//go:build !unix

package embedded

import "os"

// lock does nothing where there is no lock that ends with its process: the directory is then the operator's care.
func lock(*os.File) error { return nil }
