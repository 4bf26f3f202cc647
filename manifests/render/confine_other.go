//go:build !linux

package render

import (
	"os"
	"runtime/debug"
)

var thisProgram, _ = os.Executable()

// confine can only ask the collector to work harder here.
func confine(memory int64) error {
	if memory > 0 {
		debug.SetMemoryLimit(memory)
	}
	return nil
}
