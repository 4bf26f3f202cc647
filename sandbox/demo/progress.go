package demo

import (
	"context"
	"fmt"
	"time"
)

// stillAtIt is how often a long step says that it is not done yet.
const stillAtIt = 10 * time.Second

// say writes a line for people.
func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.cfg.Out, "demo: "+format+"\n", args...)
}

// during runs a step that may take long. Only one that takes longer than a moment
// is mentioned.
func (d *demo) during(ctx context.Context, what string, step func(context.Context) error) error {
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- step(ctx) }()
	moment := time.NewTimer(time.Second)
	defer moment.Stop()
	tick := time.NewTicker(stillAtIt)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-moment.C:
			d.say("%s", what)
		case <-tick.C:
			d.say("%s: %.0f s so far", what, time.Since(began).Seconds())
		}
	}
}
