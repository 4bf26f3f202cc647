// Package version tells which build this is.
package version

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is set by the linker (-X); "dev" in a plain go build.
var Version = "dev"

// String is what --version prints: version, commit where the build knows it, and Go.
func String() string {
	return fmt.Sprintf("%s (%s, %s)", Version, cmp.Or(Commit(), "unknown commit"), runtime.Version())
}

// Commit is empty where the build does not know it.
func Commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
