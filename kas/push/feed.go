package push

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/manifests"
	"github.com/kas-agentk/kas/manifests/render"
)

const (
	// firstRetry is how soon a set that could not be read is tried again, on
	// average; later tries wait longer, up to lastRetry.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// feedKey is what agents must have in common to share a feed. The server's token and
// features are part of it, so that new ones make a new feed.
type feedKey struct {
	address, token, features string
	storage, path            string
	ref                      gitrepo.Ref
	globs, namespace         string
}

func keyOf(repo gitrepo.Repository, w *wish) feedKey {
	features := make([]string, 0, len(repo.Server.Features))
	for _, name := range slices.Sorted(maps.Keys(repo.Server.Features)) {
		features = append(features, name+"="+repo.Server.Features[name])
	}
	return feedKey{
		address: repo.Server.Address, token: repo.Server.Token, features: strings.Join(features, "\x00"),
		storage: repo.Repository.StorageName, path: repo.Repository.RelativePath,
		ref: w.ref, globs: w.selector.Key(), namespace: w.namespace,
	}
}

// feeds holds the feeds that have streams.
type feeds struct {
	source  Source
	period  time.Duration
	limits  manifests.Limits
	clock   clock.WithTicker
	metrics *metrics
	log     *zap.Logger
	tracing *tracing.Tracing
	// renderer is shared by all feeds, so that it bounds what is rendered at once.
	renderer *render.Renderer

	mu   sync.Mutex
	open map[feedKey]*feed
}

// join returns the feed for what w asks of repo. Each join needs one leave.
func (f *feeds) join(ctx context.Context, repo gitrepo.Repository, w *wish) *feed {
	key := keyOf(repo, w)
	f.mu.Lock()
	defer f.mu.Unlock()
	fd, ok := f.open[key]
	if !ok {
		fd = &feed{
			feeds: f, key: key, repo: repo, selector: w.selector, namespace: w.namespace, ref: w.ref,
			changed: make(chan struct{}), done: make(chan struct{}), box: make(chan gitrepo.Revision, 1),
			log: f.log.With(zap.String("repository", repo.Repository.GlProjectPath), zap.Stringer("ref", w.ref)),
		}
		// The feed outlives the stream that starts it where others have come, and keeps
		// nothing of it.
		ctx, fd.cancel = context.WithCancel(grpctool.Detached(ctx))
		f.open[key] = fd
		f.metrics.feeds.Inc()
		go fd.run(ctx)
	}
	fd.streams++
	return fd
}

// leave ends the feed with its last stream, and waits for its end.
func (f *feeds) leave(fd *feed) {
	f.mu.Lock()
	fd.streams--
	last := fd.streams == 0
	if last {
		delete(f.open, fd.key)
		f.metrics.feeds.Dec()
		fd.cancel()
	}
	f.mu.Unlock()
	if last {
		<-fd.done
	}
}

// view is what a feed knows at a time. It never changes.
type view struct {
	// ref that is followed; for the default branch, the branch where it is known.
	ref gitrepo.Ref
	// wanted commit, and when the ref was seen there; empty where it is not known.
	wanted     string
	detectedAt time.Time
	// problem says why there is no set of the wanted commit. Nil: built is it.
	problem error
	// built is the newest set there is, of whatever commit. Nil: none yet.
	built *built
}

// feed builds the sets of one ref of one repository.
type feed struct {
	feeds     *feeds
	key       feedKey
	repo      gitrepo.Repository
	ref       gitrepo.Ref
	selector  *sources
	namespace string
	log       *zap.Logger
	cancel    context.CancelFunc
	done      chan struct{}
	// box holds the newest revision that build has not taken.
	box chan gitrepo.Revision

	streams int // guarded by feeds.mu

	// Owned by run.
	files map[string]parsed
	// rendered has what entries gave for the set, by their keys.
	rendered map[string]render.Result
	built    *built
	wanted   *gitrepo.Revision // the newest that is not passing trouble

	mu      sync.Mutex
	view    *view
	changed chan struct{} // closed when view changes
	memo    deltaMemo
}

// now returns the newest view, nil before the first, and a channel that is closed
// when there is a newer one.
func (f *feed) now() (*view, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view, f.changed
}

func (f *feed) publish(v *view) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.view = v
	close(f.changed)
	f.changed = make(chan struct{})
}

// run follows the ref and builds the sets, until ctx ends.
func (f *feed) run(ctx context.Context) {
	defer close(f.done)
	stop := f.feeds.source.Follow(ctx, f.repo, f.ref, f.feeds.period, f.offer)
	defer stop()
	f.build(ctx)
}

// offer puts a revision in place of the one that was not taken. It does not block: it is
// called once at a time.
func (f *feed) offer(revision gitrepo.Revision) {
	select {
	case <-f.box:
	default:
	}
	f.box <- revision
}

// build turns revisions into views. What cannot be read is tried again, unless the
// ref moves on.
func (f *feed) build(ctx context.Context) {
	delays := backoff.NewExponentialBackOff(backoff.WithInitialInterval(firstRetry), backoff.WithMaxInterval(lastRetry),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(retry.Jitter), backoff.WithMaxElapsedTime(0))
	var revision gitrepo.Revision
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case revision = <-f.box:
			delays.Reset()
		case <-again:
		}
		again = nil
		if !f.take(ctx, revision) {
			again = f.feeds.clock.After(delays.NextBackOff())
		}
	}
}

// take publishes what is to be known of a revision. It returns false when the set
// could not be read, and reading should be tried again.
func (f *feed) take(ctx context.Context, revision gitrepo.Revision) bool {
	v := &view{ref: revision.Ref, wanted: revision.CommitID, detectedAt: revision.DetectedAt, built: f.built, problem: revision.Problem}
	if gitrepo.IsPassing(revision.Problem) && f.wanted != nil {
		// What the ref named when it was seen last is the best that is known.
		v.ref, v.wanted, v.detectedAt = f.wanted.Ref, f.wanted.CommitID, f.wanted.DetectedAt
	} else {
		f.wanted = &revision
	}
	if revision.Problem != nil || f.built != nil && f.built.commitID == revision.CommitID {
		f.publish(v)
		return true
	}
	began := f.feeds.clock.Now()
	set, traceparent, err := f.parse(ctx, revision)
	took := f.feeds.clock.Since(began)
	switch {
	case ctx.Err() != nil:
		return true // nobody wants it any more
	case errors.Is(err, gitrepo.ErrTooManyFiles): // and it will never have fewer
		f.feeds.metrics.builds.WithLabelValues("mistakes").Inc()
		v.problem = gitrepo.ErrTooManyFiles
		f.publish(v)
		return true
	case err != nil:
		f.feeds.metrics.builds.WithLabelValues("error").Inc()
		f.log.Warn("Object set cannot be read; trying again", logging.Commit(revision.CommitID), zap.Error(err))
		v.problem = err
		f.publish(v)
		return false
	}
	result := "ok"
	if len(set.Errors) > 0 {
		result = "mistakes"
	}
	f.feeds.metrics.builds.WithLabelValues(result).Inc()
	f.feeds.metrics.seconds.Observe(took.Seconds())
	f.log.Info("New commit, object set built", logging.Commit(revision.CommitID), zap.Time("detected_at", revision.DetectedAt),
		zap.Int("objects", len(set.Objects)), zap.Int("mistakes", len(set.Errors)), zap.Duration("took", took))
	f.built = newBuilt(revision, set, f.note(&set))
	f.built.traceparent = traceparent
	v.built = f.built
	f.publish(v)
	return true
}

// note says what is worth knowing of a set that holds nothing.
func (f *feed) note(set *manifests.Set) string {
	switch {
	case len(set.Objects) > 0 || len(set.Errors) > 0:
		return ""
	case len(f.files) == 0 && len(f.selector.renders) == 0:
		return fmt.Sprintf("no file of the commit matches the globs %s: correct paths in the agent's configuration, or push manifests",
			strings.Join(f.selector.Globs(), ", "))
	case len(f.selector.renders) > 0:
		return "neither what is rendered nor the files that the globs select hold an object: push manifests"
	default:
		return "the files that the globs select hold no object: push manifests"
	}
}

// explain says what a problem means for people.
func explain(problem error) string {
	if problem == nil {
		return ""
	}
	var missing *gitrepo.RefNotFoundError
	if errors.Is(problem, gitrepo.ErrEmpty) || errors.Is(problem, gitrepo.ErrTooManyFiles) || errors.As(problem, &missing) {
		return problem.Error()
	}
	return fmt.Sprintf("the repository cannot be read: %v", problem)
}
