package agentk

import (
	"context"
	"sync"

	"github.com/kas-agentk/kas/gitops"
)

// fakeEngine plays the engine: it reports every object as created and healthy, unless
// told otherwise.
type fakeEngine struct {
	// run, unless nil, is asked at every run, which is numbered from 1.
	run func(ctx context.Context, n int, d gitops.Desired, o gitops.Observer) (gitops.Result, error)
	// diff, unless nil, answers comparisons.
	diff func(context.Context, gitops.Desired) ([]gitops.Difference, error)
	// watch, unless nil, is called by every watch when it begins.
	watch func(gitops.Project)
	// readiness is sent to the next watches.
	readiness chan gitops.Readiness

	mu   sync.Mutex
	runs []gitops.Desired
	keys []string
	// projects of the runs.
	projects []gitops.Project
	busy     map[string]bool
	overlap  bool
	watches  int
	// forgotten is how often the engine was told to forget, and runsAtForget how
	// many runs there had been.
	forgotten    int
	runsAtForget []int
}

func newFakeEngine() *fakeEngine {
	return &fakeEngine{readiness: make(chan gitops.Readiness), busy: map[string]bool{}}
}

func (e *fakeEngine) Run(ctx context.Context, p gitops.Project, d gitops.Desired, o gitops.Observer) (gitops.Result, error) {
	e.mu.Lock()
	e.runs = append(e.runs, d)
	e.keys = append(e.keys, p.Key)
	e.projects = append(e.projects, p)
	n := len(e.runs)
	e.overlap = e.overlap || e.busy[p.Key]
	e.busy[p.Key] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.busy[p.Key] = false
	}()
	if e.run != nil {
		return e.run(ctx, n, d, o)
	}
	return created(d, o), nil
}

// created reports every object as created.
func created(d gitops.Desired, o gitops.Observer) gitops.Result {
	for _, object := range d.Set.Objects {
		o.Object(gitops.ObjectStatus{
			ID: object.ID, Version: "v1", Action: gitops.ActionCreated, Health: gitops.HealthCurrent, Position: object.Position,
		})
	}
	return gitops.Result{Total: len(d.Set.Objects)}
}

func (e *fakeEngine) Watch(ctx context.Context, p gitops.Project, _ gitops.Result, _ gitops.Observer, cfg gitops.WatchConfig) error {
	e.mu.Lock()
	e.watches++
	e.mu.Unlock()
	if e.watch != nil {
		e.watch(p)
	}
	cfg.OnReadiness(gitops.Readiness{Ready: true})
	for {
		select {
		case r := <-e.readiness:
			cfg.OnReadiness(r)
		case <-ctx.Done():
			return nil
		}
	}
}

// Diff says that every object would be created.
func (e *fakeEngine) Diff(ctx context.Context, _ gitops.Project, d gitops.Desired) ([]gitops.Difference, error) {
	if e.diff != nil {
		return e.diff(ctx, d)
	}
	var all []gitops.Difference
	for _, object := range d.Set.Objects {
		all = append(all, gitops.Difference{ID: object.ID, Action: gitops.ActionCreated, Position: object.Position})
	}
	return all, nil
}

func (e *fakeEngine) Forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgotten++
	e.runsAtForget = append(e.runsAtForget, len(e.runs))
}

func (e *fakeEngine) commits() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var commits []string
	for _, d := range e.runs {
		commits = append(commits, d.Commit)
	}
	return commits
}

// alwaysLeads is an Elector without others.
type alwaysLeads struct{}

func (alwaysLeads) Lead(ctx context.Context, _ int64, work func(context.Context, int64)) error {
	work(ctx, 1)
	<-ctx.Done()
	return nil
}

// leadsWhenTold is an Elector that gives one term for each token.
type leadsWhenTold struct {
	terms chan struct{}
	// lose ends a term.
	lose chan struct{}
}

func (l leadsWhenTold) Lead(ctx context.Context, _ int64, work func(context.Context, int64)) error {
	for number := int64(1); ; number++ {
		select {
		case <-l.terms:
		case <-ctx.Done():
			return nil
		}
		term, end := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			work(term, number)
		}()
		select {
		case <-l.lose:
		case <-ctx.Done():
		}
		end()
		<-ended
	}
}
