package harness

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/kas-agentk/kas/sandbox/process"
)

// guards know which processes ended without having been asked to, so that nobody
// waits for the dead. They own one goroutine a process, until close.
type guards struct {
	stop    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	watched []*process.Process
	dead    map[*process.Process]error
	all     []error
}

func newGuards() *guards {
	return &guards{stop: make(chan struct{}), dead: map[*process.Process]error{}}
}

// watch guards processes, which need not run yet. It does nothing for those that it
// guards already.
func (g *guards) watch(processes ...*process.Process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range processes {
		if slices.Contains(g.watched, p) {
			continue
		}
		g.watched = append(g.watched, p)
		g.running.Go(func() {
			for {
				select {
				case err := <-p.Failed():
					g.note(p, err)
				case <-g.stop:
					return
				}
			}
		})
	}
}

func (g *guards) note(p *process.Process, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dead[p] = err
	g.all = append(g.all, err)
}

// check is what killed the processes that ought to run but do not, if any. Without
// arguments it is about all.
func (g *guards) check(processes ...*process.Process) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(processes) == 0 {
		processes = g.watched
	}
	var errs []error
	for _, p := range processes {
		if err := g.dead[p]; err != nil && !p.Running() {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// close ends the watch. Its error tells of all that died meanwhile.
func (g *guards) close() error {
	close(g.stop)
	g.running.Wait()
	for _, p := range g.watched { // what came too late for its watcher
		select {
		case err := <-p.Failed():
			g.note(p, err)
		default:
		}
	}
	if len(g.all) == 0 {
		return nil
	}
	return fmt.Errorf("%d processes died unasked: %w", len(g.all), errors.Join(g.all...))
}
