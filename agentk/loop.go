package agentk

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/inventory"
)

// Engine makes a cluster hold an object set and watches it: gitops.Run and
// gitops.Watch over one cluster.
type Engine interface {
	// Forget drops what is remembered of projects that another replica may have
	// worked on meanwhile. No run is under way.
	Forget()
	Run(context.Context, gitops.Project, gitops.Desired, gitops.Observer) (gitops.Result, error)
	Watch(context.Context, gitops.Project, gitops.Result, gitops.Observer, gitops.WatchConfig) error
	// Diff may be called while Run or Watch of the same project is under way.
	Diff(context.Context, gitops.Project, gitops.Desired) ([]gitops.Difference, error)
}

// driftQuiet is how long nothing must drift for the next drift to be mended at once.
const driftQuiet = 2 * time.Minute

// waits is how long the loop waits before it runs a set again.
type waits struct {
	// outage: the run could not be carried out, as when the API server is away.
	outage *backoff.ExponentialBackOff
	// failures: objects failed, for reasons that may lie outside of the repository.
	failures *backoff.ExponentialBackOff
	// drift: somebody changed objects in a way that the watch leaves to a run.
	drift *backoff.ExponentialBackOff
	// failing objects of the last run.
	failing map[inventory.ID]struct{}
}

// again is how long to wait after a run of which these objects failed. Trying again
// costs requests for the objects that failed alone. That some have failed for long is
// no reason for one that fails for the first time to wait as long.
func (w waits) again(failed []inventory.ID) time.Duration {
	for _, id := range failed {
		if _, before := w.failing[id]; !before {
			w.failures.Reset()
		}
	}
	clear(w.failing)
	for _, id := range failed {
		w.failing[id] = struct{}{}
	}
	return w.failures.NextBackOff()
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
		failing:  map[inventory.ID]struct{}{},
	}
}

// loop syncs the newest set until ctx ends. A newer one pre-empts it, and so does what
// people decide.
func (w *worker) loop(ctx context.Context) {
	for ctx.Err() == nil {
		set, filled, newer := w.sets.Get()
		decided, _, changed := w.control.newest.Get()
		cancelledBy(ctx, newer, changed, func(ctx context.Context) {
			if filled {
				w.attend(ctx, set, decided)
			}
			<-ctx.Done()
		})
	}
}

// cancelledBy calls f with a context that ends when one of the channels is closed.
func cancelledBy(ctx context.Context, newer, changed <-chan struct{}, f func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		select {
		case <-newer:
		case <-changed:
		case <-ctx.Done():
		}
	}()
	f(ctx)
	cancel()
	<-ended
}

// sync makes the cluster hold set, and keeps it so, until ctx ends.
func (w *worker) sync(ctx context.Context, set *desired.Set, decided *decision) {
	log := w.log.With(logging.Commit(set.Commit))
	project, err := w.projectFor(set, decided)
	if err != nil { // kas does not send such a configuration
		log.Error("Project cannot be synced", zap.Error(err))
		w.reporter.Refused(err.Error())
		return
	}
	project.Heals = &heals{log: log, metrics: w.metrics, project: w.project.GetId()}
	waits := newWaits()
	traced := w.traceOf(ctx, set)
	for {
		news := w.wants.news()
		result, err := w.run(ctx, log, project, set, traced)
		if err == nil {
			waits.outage.Reset()
			if result.Waiting == 0 {
				news = nil
			}
			err = w.watch(ctx, log, project, result, news, waits, traced)
		}
		if ctx.Err() != nil {
			traced.end("preempted")
			return
		}
		traced.end("run again")
		traced = nil
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

// projectFor says in the engine's words how to sync a set. decided may be nil.
func (w *worker) projectFor(set *desired.Set, decided *decision) (gitops.Project, error) {
	project, err := engineProject(inventoryKey(w.agentID, set.ProjectID), w.project)
	if err != nil {
		return gitops.Project{}, err
	}
	if set.Restored {
		project.Prune = false // kas has not confirmed that it is still the newest
	}
	if decided != nil && decided.ApprovedCommit == set.Commit {
		project.Guard.Approved = set.Commit
	}
	project.Agent, project.Name = strconv.FormatInt(w.agentID, 10), set.ProjectPath
	if project.Name == "" {
		project.Name = w.project.GetId()
	}
	project.Others = w.wants.others(project.Key)
	project.Healing = w.healing
	return project, nil
}

// run runs the set once and tells the reporter, the log and the metrics.
func (w *worker) run(ctx context.Context, log *zap.Logger, project gitops.Project, set *desired.Set, traced *syncTrace) (gitops.Result, error) {
	began := w.clock.Now()
	w.reporter.Syncing(set.Commit)
	result, err := w.engine.Run(ctx, project, set.Desired, traced.observer(w.reporter))
	took := w.clock.Since(began)
	if err != nil {
		label := "error"
		if ctx.Err() != nil {
			label = "preempted"
		}
		traced.ran(label, result, err)
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
		w.speed.isApplied(w.clock.Now())
	}
	traced.ran(label, result, nil)
	w.metrics.syncs.WithLabelValues(label).Observe(took.Seconds())
	actions := w.reporter.Actions()
	w.metrics.countObjects(actions)
	giveBack(actions[gitops.ActionCreated] + actions[gitops.ActionConfigured])
	log.Info("Objects applied", append(actionFields(actions), zap.Int("total", result.Total), zap.Int("failed", result.Failed),
		zap.String("held_back", result.HeldBack), zap.Duration("took", took))...)
	return result, nil
}

// watch watches what a run left behind until it is time for another: the end of
// ctx, some time after objects failed, when another project has news, or when somebody
// else changed objects.
func (w *worker) watch(ctx context.Context, log *zap.Logger, project gitops.Project, result gitops.Result, news <-chan struct{}, waits waits, traced *syncTrace) error {
	ctx, cancel := context.WithCancel(ctx)
	var again time.Duration
	if result.Failed > 0 || result.Waiting > 0 {
		again = waits.again(result.FailedIDs)
		log.Info("Objects failed or wait, trying them again", zap.Int("failed", result.Failed),
			zap.Int("waiting", result.Waiting), zap.Duration("wait", again))
	} else {
		waits.failures.Reset()
		clear(waits.failing)
	}
	began := w.clock.Now()
	drifted, served := make(chan struct{}, 1), make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		w.awaitReason(ctx, log, again, drifted, served, news, began, waits)
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
			traced.ready(r)
			if r.Ready {
				w.speed.isReady(w.clock.Now())
			}
			if len(r.Drifted) > 0 {
				poke(drifted)
			}
			if r.Retry {
				poke(served)
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
func (w *worker) awaitReason(ctx context.Context, log *zap.Logger, again time.Duration, drifted, served, news <-chan struct{}, began time.Time, waits waits) {
	var retryFailed <-chan time.Time
	if again > 0 {
		timer := w.clock.NewTimer(again)
		defer timer.Stop()
		retryFailed = timer.C()
	}
	select {
	case <-ctx.Done():
	case <-retryFailed:
	case <-news:
	case <-served:
		log.Info("A kind is served by now that was missing, or is not any more as it was")
	case <-drifted:
		if w.clock.Since(began) > driftQuiet {
			waits.drift.Reset()
		}
		wait := waits.drift.NextBackOff()
		log.Info("Objects were changed by somebody else, running the set again", zap.Duration("wait", wait))
		_ = w.sleep(ctx, wait) // its only error is the end of ctx
	}
}

// heals tells the metrics and the log of what is put right. It implements
// gitops.HealObserver.
type heals struct {
	log     *zap.Logger
	metrics *metrics
	project string
}

func (h *heals) Contested(n int) {
	h.metrics.contested.WithLabelValues(h.project).Set(float64(n))
}

// HealFailed only counts: why, a run tells that follows, or another try.
func (h *heals) HealFailed(inventory.ID, error) {
	h.metrics.heals.WithLabelValues("error").Inc()
}

func (h *heals) Healed(s gitops.ObjectStatus) {
	h.metrics.heals.WithLabelValues("ok").Inc()
	fields := []zap.Field{
		zap.String("kind", s.ID.GroupKind.String()), zap.String("namespace", s.ID.Namespace), zap.String("name", s.ID.Name),
	}
	if s.Contest == nil {
		h.log.Info("Object was changed by somebody else, healed", fields...)
		return
	}
	managers := make([]string, len(s.Contest.Contenders))
	for i, c := range s.Contest.Contenders {
		managers[i] = c.Manager
	}
	h.log.Warn("Object is changed by somebody else again and again, healed", append(fields,
		zap.Strings("managers", managers), zap.Int("heals", s.Contest.Heals))...)
}

// poke fills a channel that has room for one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
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
