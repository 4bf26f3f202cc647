package agentk

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage may gather, as a share of what is alive. What agentk
// holds are mostly caches that stay, and it shares its node with others: Go's default
// of 100 has it take twice what it needs.
const gcPercent = 40

// tuneMemory prefers little memory to little CPU, unless GOGC says otherwise.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// manyObjects is from how many applied objects on a run leaves enough garbage behind
// to return it to the system at once.
const manyObjects = 1000

// giveBack returns memory to the system after a run that applied that many objects;
// the runtime by itself takes minutes for it.
func giveBack(applied int) {
	if applied >= manyObjects {
		debug.FreeOSMemory()
	}
}
