package render

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"time"

	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/manifests"
)

// Config is how rendering is bounded. All of it must be set but Clock.
type Config struct {
	// Limits of each file that is read, of all files of a rendering, and of what comes
	// out.
	Limits manifests.Limits
	// Timeout after which a rendering is given up.
	Timeout time.Duration
	// Parallel is how many renderings run at once; others wait.
	Parallel int
	// Command starts a process that calls Serve, and renders there: what it takes is
	// bounded, and it ends with the context. Nil: rendering is done in this process.
	Command func(context.Context) *exec.Cmd
	// Memory of such a process, in bytes, beside what it needs to start.
	Memory int64
	// Clock. Nil: the real one.
	Clock clock.Clock
}

// Load fetches files of the commit, at most maxSize bytes each: it calls yield once for
// each, with nil data where a file is larger. Contents are shared.
type Load func(ctx context.Context, paths []string, maxSize int64, yield func(path string, data []byte, size int64)) error

// Result is what came of a rendering.
type Result struct {
	// File has the objects and the mistakes. Its path is the file that was rendered
	// from: kustomization.yaml or Chart.yaml.
	File manifests.FileResult
	// seen is what was looked at, as the tree had it. Nil: not known.
	seen map[string]string
}

// Valid tells whether rendering again from tree would give the same.
func (r *Result) Valid(tree *Tree) bool {
	for name, mark := range r.seen {
		if tree.mark(name) != mark {
			return false
		}
	}
	return r.seen != nil
}

// Renderer renders. It is safe for concurrent use.
type Renderer struct {
	config Config
	slots  chan struct{}
}

// New returns a renderer.
func New(config Config) *Renderer {
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	return &Renderer{config: config, slots: make(chan struct{}, config.Parallel)}
}

// ErrBusy says that other renderings left no room for Config.Timeout.
var ErrBusy = errors.New("other renderings leave no room (trying again)")

// Render renders an entry. An error is load's, ctx's, or ErrBusy: all that is wrong in the
// repository is in the result.
func (r *Renderer) Render(ctx context.Context, e Entry, tree *Tree, load Load) (Result, error) {
	timer := r.config.Clock.NewTimer(r.config.Timeout)
	defer func() { timer.Stop() }()
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return Result{}, ctx.Err()
	case <-timer.C():
		return Result{}, ErrBusy
	}
	timer.Stop()
	timer = r.config.Clock.NewTimer(r.config.Timeout)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a rendering that is given up ends when it next loads a file
	type outcome struct {
		result Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() { // in this process it ends by itself: see the package comment
		defer func() { <-r.slots }()
		result, err := r.render(ctx, e, tree, load)
		done <- outcome{result, err}
	}()
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return Result{}, ctx.Err()
	case <-timer.C():
		return Result{File: e.failed(tree, fmt.Sprintf("rendering takes longer than the limit of %s: make it simpler, or render it in a CI job and commit the result", r.config.Timeout))}, nil
	}
}

func (r *Renderer) render(ctx context.Context, e Entry, tree *Tree, load Load) (Result, error) {
	if r.config.Command != nil {
		return r.renderApart(ctx, e, tree, load)
	}
	return r.renderHere(ctx, e, tree, load)
}

// renderHere renders in this process.
func (r *Renderer) renderHere(ctx context.Context, e Entry, tree *Tree, load Load) (result Result, err error) {
	b := &bench{
		tree: tree, limits: r.config.Limits, seen: map[string]string{}, data: map[string][]byte{}, sizes: map[string]int64{},
		guards: map[string]*guard{},
		load: func(paths []string, yield func(string, []byte, int64)) error {
			return load(ctx, paths, r.config.Limits.MaxFileSize, yield)
		},
	}
	defer func() {
		if p := recover(); p != nil { // the libraries' own faults are no reason to fall
			result, err = Result{File: e.failed(tree, fmt.Sprintf("the rendering library failed: %v", p)), seen: b.seen}, nil
		}
	}()
	var objects []manifests.Object
	if e.chart {
		objects = b.helm(e)
	} else {
		objects = b.kustomize(e)
	}
	if b.failed != nil {
		return Result{}, fmt.Errorf("render %s: %w", e, b.failed)
	}
	file := manifests.FileResult{Path: e.file(tree), Errors: b.mistakes}
	for i := range objects {
		file.Size += int64(len(objects[i].JSON))
	}
	switch {
	case len(b.mistakes) > 0: // half of a rendering is not what anybody asked for
	case file.Size > b.limits.MaxTotalSize:
		file = e.failed(tree, fmt.Sprintf("what is rendered has %d bytes, more than the limit of %d", file.Size, b.limits.MaxTotalSize))
	default:
		file.Objects = objects
	}
	return Result{File: file, seen: b.seen}, nil
}

// file that the entry is rendered from.
func (e Entry) file(tree *Tree) string {
	if e.chart {
		return path.Join(e.dir, chartFile)
	}
	for _, name := range kustomizationFiles {
		if name = path.Join(e.dir, name); tree.isFile(name) {
			return name
		}
	}
	return path.Join(e.dir, kustomizationFiles[0])
}

func (e Entry) failed(tree *Tree, message string) manifests.FileResult {
	file := e.file(tree)
	return manifests.FileResult{Path: file, Errors: []manifests.FileError{{Path: file, Message: manifests.Clip(message)}}}
}
