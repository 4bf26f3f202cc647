package kas

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"

	"k8s.io/utils/clock"
)

const (
	// headroom in bytes is how much garbage may gather, within the bounds of leastPercent and
	// mostPercent of what is alive. What many agents take is mostly alive and silent, and makes
	// no more garbage for being there.
	headroom                  = 128 << 20
	leastPercent, mostPercent = 25, 100
	// percentStep is by how much the share must differ to be set: that stops the world.
	percentStep = 5

	// memoryPeriod is how often it is looked.
	memoryPeriod = 5 * time.Second
	// manyGoroutines, some seven for each agent, that have come or gone leave behind what is
	// worth giving back to the system, as soon as they are fewGoroutines in a period at most.
	manyGoroutines, fewGoroutines = 2000, 100
)

// memoryKeeper keeps what kas has of the system's memory near what it needs of it.
type memoryKeeper struct {
	clock clock.WithTicker
	// use returns the bytes that were alive after the last collection of garbage, stacks
	// included, and the goroutines that there are.
	use        func() (live, goroutines uint64)
	setPercent func(int)
	giveBack   func()

	percent int
	// goroutines that there were in the last period, and when memory was given back.
	last, settled uint64
}

// newMemoryKeeper returns one for this process. Whoever sets GOGC has chosen its share of
// garbage.
func newMemoryKeeper() *memoryKeeper {
	k := &memoryKeeper{clock: clock.RealClock{}, use: memoryInUse, setPercent: func(int) {}, percent: mostPercent}
	if os.Getenv("GOGC") == "" {
		k.setPercent = func(percent int) { debug.SetGCPercent(percent) }
	}
	k.giveBack = func() {
		runtime.GC() // pools are empty after two
		debug.FreeOSMemory()
	}
	return k
}

// keepMemory keeps this process's memory small until ctx ends. stop waits for the end of that.
func keepMemory(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		newMemoryKeeper().run(ctx)
	}()
	return func() { cancel(); <-done }
}

// run looks until ctx ends.
func (k *memoryKeeper) run(ctx context.Context) {
	ticker := k.clock.NewTicker(memoryPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			k.look()
		}
	}
}

func (k *memoryKeeper) look() {
	live, goroutines := k.use()
	if percent := percentFor(live); distance(uint64(percent), uint64(k.percent)) >= percentStep {
		k.percent = percent
		k.setPercent(percent)
	}
	quiet := distance(goroutines, k.last) <= fewGoroutines
	k.last = goroutines
	if quiet && distance(goroutines, k.settled) >= manyGoroutines {
		k.settled = goroutines
		k.giveBack()
	}
}

// percentFor is the share that garbage may take beside that many bytes alive.
func percentFor(live uint64) int {
	return int(min(mostPercent, max(leastPercent, 100*headroom/max(live, 1))))
}

func distance(a, b uint64) uint64 { return max(a, b) - min(a, b) }

func memoryInUse() (live, goroutines uint64) {
	samples := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	runtimemetrics.Read(samples)
	var values [3]uint64
	for i := range samples {
		if samples[i].Value.Kind() == runtimemetrics.KindUint64 {
			values[i] = samples[i].Value.Uint64()
		}
	}
	return values[0] + values[1], values[2]
}
