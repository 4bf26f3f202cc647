package agentk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/api/agentrpc"
)

const (
	// controlsTimeout bounds one request for what people decided.
	controlsTimeout = 10 * time.Second
	// idleTimeout is how long Suspend waits for the run under way to end: less than those
	// wait who asked.
	idleTimeout = 10 * time.Second
	// byConfiguration is who suspends a project by its entry in the configuration.
	byConfiguration = "the agent's configuration"
)

// Controls are what people decided about a manifest project. The zero value is that
// nobody decided anything.
type Controls struct {
	// SuspendedBy is who switched syncing off; empty: nobody.
	SuspendedBy string
	SuspendedAt time.Time
	// ApprovedCommit is the commit whose deletions may go on, and ApprovedBy who says
	// so.
	ApprovedCommit, ApprovedBy string
}

// ControlStore keeps Controls for whichever replica leads next.
type ControlStore interface {
	// LoadControls returns what was saved last for that inventory.
	LoadControls(ctx context.Context, key string) (Controls, error)
	SaveControls(ctx context.Context, key string, c Controls) error
}

// memory is a ControlStore that keeps nothing.
type memory struct{}

func (memory) LoadControls(context.Context, string) (Controls, error) { return Controls{}, nil }

func (memory) SaveControls(context.Context, string, Controls) error { return nil }

// decision is what is in force. It never changes: another decision is another value.
type decision struct {
	Controls
	// key of the inventory that it is about.
	key string
}

// control knows what is decided about a worker's project.
type control struct {
	store ControlStore

	// mu keeps changes apart.
	mu     sync.Mutex
	newest desired.Slot[*decision]
	// idle is the newest decision that the loop does nothing because of.
	idle desired.Slot[*decision]
}

func newControl(store ControlStore) *control {
	if store == nil {
		store = memory{}
	}
	return &control{store: store}
}

// learn finds out what was decided before.
func (c *control) learn(ctx context.Context, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.learnLocked(ctx, key)
	return err
}

func (c *control) learnLocked(ctx context.Context, key string) (*decision, error) {
	if d, filled, _ := c.newest.Get(); filled && d.key == key {
		return d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, controlsTimeout)
	defer cancel()
	controls, err := c.store.LoadControls(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read what people decided about the project: %w", err)
	}
	d := &decision{Controls: controls, key: key}
	c.newest.Put(d)
	return d, nil
}

// change saves what f makes of the newest decision, and puts it in force; also where f
// changes nothing.
func (c *control) change(ctx context.Context, key string, f func(*Controls) error) (*decision, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err := c.learnLocked(ctx, key)
	if err != nil {
		return nil, err
	}
	d := &decision{Controls: before.Controls, key: key}
	if err := f(&d.Controls); err != nil {
		return nil, err
	}
	if d.Controls != before.Controls {
		ctx, cancel := context.WithTimeout(ctx, controlsTimeout)
		defer cancel()
		if err := c.store.SaveControls(ctx, key, d.Controls); err != nil {
			return nil, fmt.Errorf("write down what was decided: %w", err)
		}
	}
	c.newest.Put(d)
	return d, nil
}

// attend syncs the set, unless somebody decided otherwise, until ctx ends: another
// decision ends it as well.
func (w *worker) attend(ctx context.Context, set *desired.Set, decided *decision) {
	if key := inventoryKey(w.agentID, set.ProjectID); decided == nil || decided.key != key {
		w.learn(ctx, key)
		return
	}
	suspension := w.suspension(decided)
	w.reporter.Suspended(suspension)
	w.speed.begin(set, suspension != nil)
	if suspension != nil {
		w.control.idle.Put(decided)
		return
	}
	w.sync(ctx, set, decided)
}

// learn asks for what was decided until it is told: nothing is synced before.
func (w *worker) learn(ctx context.Context, key string) {
	waits := newWaits()
	for {
		err := w.control.learn(ctx, key)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			w.reporter.Trouble("")
			return
		}
		wait := waits.outage.NextBackOff()
		w.log.Warn("Nothing is synced until it is known whether the project is suspended, trying again", zap.Error(err), zap.Duration("wait", wait))
		w.reporter.Trouble(trouble(err))
		if w.sleep(ctx, wait) != nil {
			return
		}
	}
}

// suspension says who suspends the project; nil: nobody.
func (w *worker) suspension(d *decision) *report.Suspension {
	switch {
	case w.project.GetSuspend():
		return &report.Suspension{By: byConfiguration, At: w.since}
	case d.SuspendedBy != "":
		return &report.Suspension{By: d.SuspendedBy, At: d.SuspendedAt}
	default:
		return nil
	}
}

var (
	errNoSet      = errors.New("the agent has not received the project's objects yet: look at its status, and try again")
	errNotHeld    = errors.New("no deletion waits for an approval")
	errUnknown    = errors.New("this agentk does not know the command: update it")
	errConfigured = errors.New("the project is suspended by the agent's configuration: remove suspend there")
	errStillBusy  = errors.New("the project is suspended, but a request to the API server has not ended yet")
)

// obey carries out a command. Its error is for the person who gave it.
func (w *worker) obey(ctx context.Context, c *agentrpc.Command) error {
	set, filled, _ := w.sets.Get()
	if !filled {
		return errNoSet
	}
	key := inventoryKey(w.agentID, set.ProjectID)
	switch what := c.GetCommand().(type) {
	case *agentrpc.Command_SyncNow:
		return w.syncNow(ctx, key)
	case *agentrpc.Command_Suspend:
		return w.suspend(ctx, key, c.GetBy())
	case *agentrpc.Command_Resume:
		return w.resume(ctx, key)
	case *agentrpc.Command_ApprovePrune:
		return w.approve(ctx, key, what.ApprovePrune.GetCommitId(), c.GetBy())
	default:
		return errUnknown
	}
}

func (w *worker) syncNow(ctx context.Context, key string) error {
	_, err := w.control.change(ctx, key, func(c *Controls) error {
		if s := w.suspension(&decision{Controls: *c}); s != nil {
			return fmt.Errorf("the project is suspended by %s: resume it first", s.By) //nolint:err113 // for people
		}
		return nil
	})
	return err
}

// suspend returns when nothing is done any more.
func (w *worker) suspend(ctx context.Context, key, by string) error {
	if by == "" {
		by = "somebody"
	}
	d, err := w.control.change(ctx, key, func(c *Controls) error {
		if c.SuspendedBy == "" { // else who was first stays
			c.SuspendedBy, c.SuspendedAt = by, w.clock.Now().UTC().Truncate(time.Second)
		}
		return nil
	})
	if err != nil {
		return err
	}
	timer := w.clock.NewTimer(idleTimeout)
	defer timer.Stop()
	for {
		idle, _, changed := w.control.idle.Get()
		newest, _, newer := w.control.newest.Get()
		if idle == d || newest != d {
			return nil
		}
		select {
		case <-changed:
		case <-newer:
		case <-timer.C():
			return errStillBusy
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *worker) resume(ctx context.Context, key string) error {
	if w.project.GetSuspend() {
		return errConfigured
	}
	_, err := w.control.change(ctx, key, func(c *Controls) error {
		c.SuspendedBy, c.SuspendedAt = "", time.Time{}
		return nil
	})
	return err
}

func (w *worker) approve(ctx context.Context, key, commit, by string) error {
	held, n := w.reporter.Held()
	switch {
	case n == 0:
		return errNotHeld
	case held != commit:
		return fmt.Errorf("the deletions of commit %s wait for an approval, not those of %s", held, commit) //nolint:err113 // for people
	}
	_, err := w.control.change(ctx, key, func(c *Controls) error {
		c.ApprovedCommit, c.ApprovedBy = commit, by
		return nil
	})
	return err
}
