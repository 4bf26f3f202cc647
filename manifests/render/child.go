package render

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/kas-agentk/kas/manifests"
)

// A rendering in a process of its own can be ended, and what it takes of the machine
// bounded. Parent and child talk over the child's standard input and output, in gob:
//
//	parent: job          child: question  (files that it needs, any number of times)
//	parent: files…, end  child: question  (with the result: it ends)
type (
	job struct {
		Chart       bool
		Dir         string
		Values      []string
		Release     string
		Namespace   string
		SetsMissing bool
		IDs         map[string]string
		Limits      manifests.Limits
		// Memory that the child may have, in bytes.
		Memory int64
	}
	question struct {
		Need   []string
		Result *answer
	}
	answer struct {
		File manifests.FileResult
		Seen map[string]string
	}
	loaded struct {
		Path string
		Data []byte
		Size int64
		// TooLarge stands for nil data, which gob does not tell from empty.
		TooLarge bool
		// End says that these were all; with Failed, that they could not be loaded.
		End, Failed bool
	}
)

const (
	// maxStderr is how much of what a child says last is looked at.
	maxStderr = 16 << 10
	// overhead is what a child may say beside objects' JSON, in bytes: their names and
	// places, and what it looked at.
	overhead = 256 << 20
	// killDelay is how long a killed child's pipes may stay open.
	killDelay = time.Second
)

func jobOf(e Entry, tree *Tree, config Config) job {
	return job{
		Chart: e.chart, Dir: e.dir, Values: e.values, Release: e.release, Namespace: e.namespace, SetsMissing: e.setsMissing,
		IDs: tree.ids, Limits: config.Limits, Memory: config.Memory,
	}
}

func (j *job) entry() Entry {
	return Entry{chart: j.Chart, dir: j.Dir, values: j.Values, release: j.Release, namespace: j.Namespace, setsMissing: j.SetsMissing}
}

// errLoad says to the child that its parent could not load files.
var errLoad = errors.New("files could not be loaded")

// renderApart has a child render. An error is load's, ctx's, or says that no child could
// be started.
func (r *Renderer) renderApart(ctx context.Context, e Entry, tree *Tree, load Load) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := r.config.Command(ctx)
	cmd.WaitDelay = killDelay
	said := &head{}
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return Result{}, fmt.Errorf("render %s: %w", e, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Result{}, fmt.Errorf("render %s: %w", e, err)
	}
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("render %s: start a process for it: %w", e, err)
	}
	p := &parent{
		out: gob.NewEncoder(in), load: load, limit: r.config.Limits.MaxFileSize,
		in: gob.NewDecoder(io.LimitReader(out, r.config.Limits.MaxTotalSize+overhead)),
	}
	result, err := p.talk(ctx, jobOf(e, tree, r.config))
	cancel() // whatever it does now is of no use
	_ = cmd.Wait()
	switch {
	case p.failed != nil:
		return Result{}, fmt.Errorf("render %s: %w", e, p.failed)
	case err != nil:
		return Result{File: e.failed(tree, r.fate(said.String(), err))}, nil
	}
	return Result{File: result.File, seen: result.Seen}, nil
}

// fate says why a child ended before it was done.
func (r *Renderer) fate(last string, err error) string {
	const advice = "make it simpler, or render it in a CI job and commit the result"
	switch {
	case strings.Contains(last, "out of memory") || strings.Contains(last, "cannot allocate memory") || strings.Contains(last, "failed to allocate"):
		return fmt.Sprintf("rendering takes more memory than the limit of %d MiB: %s", r.config.Memory>>20, advice)
	case strings.Contains(last, "pthread_create failed") || strings.Contains(last, "failed to create new OS thread"):
		// A thread's stack is memory, too.
		return fmt.Sprintf("rendering takes more memory than the limit of %d MiB, or kas has more threads than the system allows: %s", r.config.Memory>>20, advice)
	case strings.Contains(last, "stack exceeds"):
		return "rendering nests too deeply: " + advice
	default:
		first, _, _ := strings.Cut(last, "\n")
		return fmt.Sprintf("the process that renders ended before it was done (%v, after it said %.200q): %s", err, first, advice)
	}
}

// parent is its end of the conversation.
type parent struct {
	out    *gob.Encoder
	in     *gob.Decoder
	load   Load
	limit  int64
	failed error
}

func (p *parent) talk(ctx context.Context, j job) (*answer, error) {
	if err := p.out.Encode(&j); err != nil {
		return nil, err //nolint:wrapcheck // fate does
	}
	for {
		var q question
		if err := p.in.Decode(&q); err != nil {
			return nil, err //nolint:wrapcheck // fate does
		}
		if q.Result != nil {
			return q.Result, nil
		}
		if err := p.hand(ctx, q.Need); err != nil {
			return nil, err
		}
	}
}

// hand loads files for the child.
func (p *parent) hand(ctx context.Context, names []string) error {
	var broken error
	p.failed = p.load(ctx, names, p.limit, func(name string, data []byte, size int64) {
		if broken == nil {
			broken = p.out.Encode(&loaded{Path: name, Data: data, Size: size, TooLarge: data == nil})
		}
	})
	if broken == nil {
		broken = p.out.Encode(&loaded{End: true, Failed: p.failed != nil})
	}
	return broken //nolint:wrapcheck // fate does
}

// Serve renders what the parent at the other end of in and out asks for, and returns. It
// calls orphaned if the parent is gone before that: rendering cannot be stopped
// otherwise.
func Serve(in io.Reader, out io.Writer, orphaned func()) error {
	decoder := gob.NewDecoder(bufio.NewReader(in))
	var j job
	if err := decoder.Decode(&j); err != nil {
		return fmt.Errorf("read what is to be rendered: %w", err)
	}
	if err := confine(j.Memory); err != nil {
		return fmt.Errorf("limit memory: %w", err)
	}
	files := make(chan loaded)
	go func() {
		for {
			var l loaded
			if decoder.Decode(&l) != nil {
				orphaned()
				return
			}
			files <- l
		}
	}()
	buffered := bufio.NewWriter(out)
	encoder := gob.NewEncoder(buffered)
	say := func(q *question) error {
		if err := encoder.Encode(q); err != nil {
			return err //nolint:wrapcheck // the caller does
		}
		return buffered.Flush()
	}
	load := func(_ context.Context, paths []string, _ int64, yield func(string, []byte, int64)) error {
		if err := say(&question{Need: paths}); err != nil {
			return err
		}
		for l := range files {
			if l.End {
				if l.Failed {
					return errLoad
				}
				return nil
			}
			if l.Data == nil && !l.TooLarge {
				l.Data = []byte{}
			}
			yield(l.Path, l.Data, l.Size)
		}
		return errLoad
	}
	r := &Renderer{config: Config{Limits: j.Limits}}
	result, err := r.renderHere(context.Background(), j.entry(), NewTree(j.IDs), load) //nolint:forbidigo // a process's first context
	if err != nil {
		return err // the parent knows: it could not load
	}
	if err := say(&question{Result: &answer{File: result.File, Seen: result.seen}}); err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	return nil
}

// head keeps the beginning of a text: a runtime says first what went wrong.
type head struct{ bytes.Buffer }

func (t *head) Write(p []byte) (int, error) {
	if room := maxStderr - t.Len(); room > 0 {
		_, _ = t.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// Command starts this program again, with these arguments, to Serve. Nothing is passed
// on to it but what it is asked.
func Command(arguments ...string) func(context.Context) *exec.Cmd {
	return func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, thisProgram, arguments...)
		cmd.Env = []string{"GOTRACEBACK=none"}
		cmd.Dir = "/"
		return cmd
	}
}
