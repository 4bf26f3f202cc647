package agentk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/retry"
)

// Engine makes a cluster hold an object set and watches it: gitops.Run and
// gitops.Watch over one cluster.
type Engine interface {
	// Forget drops what is remembered of projects that another replica may have
	// worked on meanwhile. No run is under way.
	Forget()
	Run(context.Context, gitops.Project, gitops.Desired, gitops.Observer) (gitops.Result, error)
	Watch(context.Context, gitops.Project, gitops.Result, gitops.Observer, gitops.WatchConfig) error
}

// driftQuiet is how long nothing must drift for the next drift to be mended at once.
const driftQuiet = 2 * time.Minute

// waits is how long the loop waits before it runs a set again.
type waits struct {
	// outage: the run could not be carried out, as when the API server is away.
	outage *backoff.ExponentialBackOff
	// failures: objects failed, for reasons that may lie outside of the repository.
	failures *backoff.ExponentialBackOff
	// drift: somebody changed objects; twice in a row is a quarrel.
	drift *backoff.ExponentialBackOff
}

func newWaits() waits {
	exponential := func(initial, longest time.Duration) *backoff.ExponentialBackOff {
		return backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(initial),
			backoff.WithMaxInterval(longest),
			backoff.WithMultiplier(2),
			backoff.WithRandomizationFactor(retry.Jitter/2),
			backoff.WithMaxElapsedTime(0), // for ever
		)
	}
	return waits{
		outage:   exponential(500*time.Millisecond, 5*time.Second),
		failures: exponential(5*time.Second, 5*time.Minute),
		drift:    exponential(20*time.Millisecond, 5*time.Minute),
	}
}

// loop syncs the newest set until ctx ends. A newer one pre-empts it.
func (w *worker) loop(ctx context.Context) {
	for ctx.Err() == nil {
		set, filled, newer := w.sets.Get()
		cancelledBy(ctx, newer, func(ctx context.Context) {
			if filled {
				w.sync(ctx, set)
			}
			<-ctx.Done()
		})
	}
}

// cancelledBy calls f with a context that ends when newer is closed.
func cancelledBy(ctx context.Context, newer <-chan struct{}, f func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		select {
		case <-newer:
		case <-ctx.Done():
		}
	}()
	f(ctx)
	cancel()
	<-ended
}

// sync makes the cluster hold set, and keeps it so, until ctx ends.
func (w *worker) sync(ctx context.Context, set *desired.Set) {
	log := w.log.With(logging.Commit(set.Commit))
	project, err := engineProject(inventoryKey(w.agentID, set.ProjectID), w.project)
	if err != nil { // kas does not send such a configuration
		log.Error("Project cannot be synced", zap.Error(err))
		w.reporter.Refused(err.Error())
		return
	}
	waits := newWaits()
	for {
		result, err := w.run(ctx, log, project, set)
		if err == nil {
			waits.outage.Reset()
			err = w.watch(ctx, log, project, result, waits)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait := waits.outage.NextBackOff()
			log.Warn("Sync cannot go on, trying again", zap.Error(err), zap.Duration("wait", wait))
			w.reporter.Trouble(trouble(err))
			if w.sleep(ctx, wait) != nil {
				return
			}
		}
	}
}

// run runs the set once and tells the reporter, the log and the metrics.
func (w *worker) run(ctx context.Context, log *zap.Logger, project gitops.Project, set *desired.Set) (gitops.Result, error) {
	began := w.clock.Now()
	w.reporter.Syncing(set.Commit)
	result, err := w.engine.Run(ctx, project, set.Desired, w.reporter)
	took := w.clock.Since(began)
	if err != nil {
		label := "error"
		if ctx.Err() != nil {
			label = "preempted"
		}
		w.metrics.syncs.WithLabelValues(label).Observe(took.Seconds())
		return gitops.Result{}, fmt.Errorf("run: %w", err)
	}
	w.reporter.Ran(report.Outcome{
		Result:     result,
		FileErrors: len(set.Set.Errors),
		Complete:   set.Set.Complete,
		DryRun:     project.DryRun != gitops.DryRunNone,
	})
	label := "ok"
	if result.Failed > 0 {
		label = "partial"
	} else if project.DryRun == gitops.DryRunNone {
		w.metrics.lastApplied.WithLabelValues(w.project.GetId()).Set(float64(w.clock.Now().UnixMilli()) / 1e3)
	}
	w.metrics.syncs.WithLabelValues(label).Observe(took.Seconds())
	actions := w.reporter.Actions()
	w.metrics.countObjects(actions)
	log.Info("Objects applied", append(actionFields(actions), zap.Int("total", result.Total), zap.Int("failed", result.Failed),
		zap.String("held_back", result.HeldBack), zap.Duration("took", took))...)
	return result, nil
}

// watch watches what a run left behind until it is time for another: the end of
// ctx, some time after objects failed, or when somebody else changed objects.
func (w *worker) watch(ctx context.Context, log *zap.Logger, project gitops.Project, result gitops.Result, waits waits) error {
	ctx, cancel := context.WithCancel(ctx)
	var again time.Duration
	if result.Failed > 0 {
		again = waits.failures.NextBackOff()
		log.Info("Objects failed, trying them again", zap.Int("failed", result.Failed), zap.Duration("wait", again))
	} else {
		waits.failures.Reset()
	}
	began := w.clock.Now()
	drifted := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		w.awaitReason(ctx, log, again, drifted, began, waits)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	if project.DryRun != gitops.DryRunNone { // nothing of ours to watch
		<-ctx.Done()
		return nil
	}
	err := w.engine.Watch(ctx, project, result, w.reporter, gitops.WatchConfig{
		Clock: w.clock,
		OnReadiness: func(r gitops.Readiness) {
			w.reporter.Health(r.Ready, r.Late)
			if len(r.Drifted) > 0 {
				select {
				case drifted <- struct{}{}:
				default:
				}
			}
		},
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("watch: %w", err)
	}
	return nil
}

// awaitReason returns when there is a reason to run the set again. again is zero
// where time alone is none.
func (w *worker) awaitReason(ctx context.Context, log *zap.Logger, again time.Duration, drifted <-chan struct{}, began time.Time, waits waits) {
	var retryFailed <-chan time.Time
	if again > 0 {
		timer := w.clock.NewTimer(again)
		defer timer.Stop()
		retryFailed = timer.C()
	}
	select {
	case <-ctx.Done():
	case <-retryFailed:
	case <-drifted:
		if w.clock.Since(began) > driftQuiet {
			waits.drift.Reset()
		}
		wait := waits.drift.NextBackOff()
		log.Info("Objects were changed by somebody else, mending them", zap.Duration("wait", wait))
		_ = w.sleep(ctx, wait) // its only error is the end of ctx
	}
}

func (w *worker) sleep(ctx context.Context, d time.Duration) error {
	timer := w.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C():
		return nil
	}
}

// trouble says to people what keeps a sync from going on.
func trouble(err error) string {
	if errors.Is(err, gitops.ErrUnavailable) {
		return fmt.Sprintf("waiting for the Kubernetes API server: %v", err)
	}
	return fmt.Sprintf("trying again: %v", err)
}

func actionFields(actions map[gitops.Action]int) []zap.Field {
	var fields []zap.Field
	for _, action := range []gitops.Action{
		gitops.ActionCreated, gitops.ActionConfigured, gitops.ActionUnchanged, gitops.ActionPruned, gitops.ActionSkipped,
	} {
		if n := actions[action]; n > 0 {
			fields = append(fields, zap.Int(actionNames[action], n))
		}
	}
	return fields
}
