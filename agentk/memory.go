package agentk

import (
	"os"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

const (
	// gcPercent is how much garbage may gather, as a share of what is alive. What
	// agentk holds are mostly caches that stay, and it shares its node with others:
	// Go's default of 100 has it take twice what it needs.
	gcPercent = 40
	// headroom in bytes is how much garbage may gather once a run has shown how much
	// stays alive, within the bounds of leastPercent and gcPercent. What is left to do
	// then makes little garbage, so that a large heap costs no more than a small one.
	headroom     = 10 << 20
	leastPercent = 10
)

// tuneMemory prefers little memory to little CPU, unless GOGC says otherwise.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// manyObjects is from how many applied objects on a run leaves enough garbage behind
// to return it to the system at once.
const manyObjects = 1000

// giveBack returns memory to the system after a run that applied that many objects:
// the runtime by itself takes minutes for it, and keeps more.
func giveBack(applied int) {
	if applied >= manyObjects {
		debug.FreeOSMemory()
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percentFor(liveBytes()))
	}
}

// percentFor is the share that garbage may take beside that many bytes alive.
func percentFor(live uint64) int {
	if live == 0 {
		return gcPercent
	}
	return int(min(gcPercent, max(leastPercent, 100*headroom/live)))
}

// liveBytes is what the last garbage collection found alive.
func liveBytes() uint64 {
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(sample)
	if sample[0].Value.Kind() != runtimemetrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
