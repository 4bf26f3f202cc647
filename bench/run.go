package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kas-agentk/kas/bench/contender"
	"github.com/kas-agentk/kas/bench/objects"
	"github.com/kas-agentk/kas/bench/plane"
	"github.com/kas-agentk/kas/bench/report"
	"github.com/kas-agentk/kas/bench/scale"
)

// options are the command line.
type options struct {
	quick             bool
	repeats           int
	contenders, cases []string
	agentk            string
	out, profileDir   string
	settle            time.Duration
}

// entry is a case and who takes part in it.
type entry struct {
	objects.Case

	contenders []string
}

// entries are the cases that are asked for.
func (o *options) entries() []entry {
	all := []entry{
		{objects.ConfigMaps(1000, 200), o.contenders},
		{objects.Deployments(1000), o.contenders},
		{objects.Mixed(5000), o.contenders},
		{objects.ConfigMaps(10_000, 200), []string{contender.Raw, contender.Ours}},
	}
	if o.quick {
		all = []entry{
			{objects.ConfigMaps(200, 200), o.contenders}, {objects.Deployments(200), o.contenders}, {objects.Mixed(500), o.contenders},
		}
	}
	return slices.DeleteFunc(all, func(e entry) bool { return !o.wants(e.Name) })
}

func (o *options) wants(name string) bool { return len(o.cases) == 0 || slices.Contains(o.cases, name) }

// bench is a run.
type bench struct {
	*options

	plane    *plane.Plane
	dir      string
	log      *os.File
	progress io.Writer
}

func (o *options) run(ctx context.Context, progress, out io.Writer) (err error) {
	if o.quick {
		o.repeats, o.settle = 1, min(o.settle, 10*time.Second)
	}
	machine, err := report.ThisMachine()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kas-bench-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{options: o, dir: dir, progress: progress}
	if b.log, err = os.Create(filepath.Join(dir, "contenders.log")); err != nil {
		return fmt.Errorf("make a log: %w", err)
	}
	defer func() { err = errors.Join(err, b.log.Close()) }()
	if b.plane, err = plane.Start(ctx, dir, progress); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.plane.Stop()) }()
	results := &report.Results{Date: time.Now(), Quick: o.quick, Repeats: o.repeats, Machine: machine, Versions: report.Versions()}
	results.Versions["kube-apiserver"] = b.plane.Version
	if err := b.all(ctx, results); err != nil {
		return errors.Join(err, b.tail())
	}
	results.Judge()
	text := results.Markdown()
	if o.out != "" {
		if err := results.WriteJSON(filepath.Join(o.out, "results.json")); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(o.out, "results.md"), []byte(text), 0o644); err != nil { //nolint:gosec // for everybody to read
			return fmt.Errorf("write results: %w", err)
		}
	}
	_, err = io.WriteString(out, text)
	return err //nolint:wrapcheck // it is the last thing that could go wrong
}

// tail is what contenders logged, for an error's sake.
func (b *bench) tail() error {
	data, err := os.ReadFile(b.log.Name())
	if err != nil || len(data) == 0 {
		return nil //nolint:nilerr // there is an error already
	}
	return fmt.Errorf("contenders logged: %s", data[max(0, len(data)-4000):])
}

func (b *bench) all(ctx context.Context, results *report.Results) error {
	for _, e := range b.entries() {
		c := report.Case{Name: e.Name, Title: e.Title, Objects: e.Size}
		for repeat := range b.repeats {
			// Whoever goes first may find things warmer or colder than the others.
			order := slices.Concat(e.contenders[repeat%len(e.contenders):], e.contenders[:repeat%len(e.contenders)])
			for _, name := range order {
				if err := b.contender(ctx, &c, e.Case, name, repeat); err != nil {
					return fmt.Errorf("%s, %s: %w", e.Title, name, err)
				}
			}
		}
		results.Cases = append(results.Cases, c)
	}
	if b.agentk == "" || !b.wants("agentk") {
		return nil
	}
	return b.program(ctx, results)
}

// program measures agentk.
func (b *bench) program(ctx context.Context, results *report.Results) error {
	cases := []objects.Case{objects.ConfigMaps(1000, 200), objects.ConfigMaps(10_000, 2048), objects.Deployments(10_000)}
	edits := 100
	if b.quick {
		cases, edits = []objects.Case{objects.ConfigMaps(200, 200)}, 20
	}
	for _, c := range cases {
		cfg := scale.Config{
			Plane: b.plane, Agentk: b.agentk, Dir: filepath.Join(b.dir, "agentk-"+c.Name), Case: c, Settle: b.settle, ProfileDir: b.profileDir,
			Progress: b.progress,
		}
		if c.Healable {
			cfg.DriftEdits = edits
		}
		figures, err := scale.Measure(ctx, cfg)
		if err != nil {
			return fmt.Errorf("agentk, %s: %w", c.Title, err)
		}
		results.Agentk = append(results.Agentk, figures)
	}
	return nil
}

// contender has one contender go through all phases with names of its own.
func (b *bench) contender(ctx context.Context, c *report.Case, set objects.Case, name string, repeat int) (err error) {
	prefix := fmt.Sprintf("bench-%s-%s-%d", set.Name, name, repeat)
	fmt.Fprintf(b.progress, "%s, %s, %d of %d:", set.Title, name, repeat+1, b.repeats)
	defer fmt.Fprintln(b.progress)
	files, err := b.write(set, prefix)
	if err != nil {
		return err
	}
	inventories := prefix + "-inv"
	for _, ns := range []string{prefix, inventories} {
		if err := b.plane.CreateNamespace(ctx, ns); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, b.plane.Clear(context.WithoutCancel(ctx), prefix, inventories)) }()
	meter, err := b.plane.NewMeter(prefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, meter.Close()) }()
	spec := contender.Spec{Name: name, Config: contender.Config{
		Kubeconfig: b.plane.Kubeconfig, UserAgent: prefix, Namespace: inventories,
	}}
	if name == contender.Ours {
		spec.ProfileDir = b.profileDir
	}
	p, err := contender.Start(ctx, spec, b.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := b.warm(p, files[warmFile]); err != nil {
		return err
	}
	for _, phase := range contender.Phases() {
		if _, err := meter.Take(); err != nil {
			return err
		}
		figures, err := p.Sync("1-2", phase, files[string(phase)])
		if err != nil {
			return err
		}
		requests, err := meter.Take()
		if err != nil {
			return err
		}
		fmt.Fprintf(b.progress, " %s %.3fs", phase, figures.Seconds)
		if figures.Error != "" {
			fmt.Fprintf(b.progress, " (%s)", figures.Error)
		}
		c.Add(phase, name, report.Run{Figures: figures, Requests: requests})
	}
	return nil
}

var errWarm = errors.New("warming up failed")

// warm has the contender make its connections and learn what is served.
func (b *bench) warm(p *contender.Process, file string) error {
	for _, phase := range []contender.Phase{contender.Cold, contender.Prune} {
		f, err := p.Sync("1-1", phase, file)
		if err != nil {
			return err
		}
		if f.Error != "" {
			return fmt.Errorf("%w: %s", errWarm, f.Error)
		}
		file = ""
	}
	return nil
}

const warmFile = "warm"

// write writes the sets of each phase and returns their files; the empty set has none.
func (b *bench) write(set objects.Case, prefix string) (map[string]string, error) {
	files := map[string]string{}
	put := func(c objects.Case, version int, names ...string) error {
		made, err := c.Make(prefix, version)
		if err != nil {
			return err
		}
		path := filepath.Join(b.dir, names[0]+".jsonl")
		for _, name := range names {
			files[name] = path
		}
		return objects.Write(path, made)
	}
	return files, errors.Join(
		put(objects.ConfigMaps(1, 16), -1, warmFile),
		put(set, 0, string(contender.Cold), string(contender.Unchanged)),
		put(set, 1, string(contender.Changed)),
	)
}
