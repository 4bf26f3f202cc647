// Package version tells which build this is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is set by the linker (-X); "dev" in a plain go build.
var Version = "dev"

// String is what --version prints: version, commit where the build knows it, and Go.
func String() string {
	commit := "unknown commit"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	return fmt.Sprintf("%s (%s, %s)", Version, commit, runtime.Version())
}
