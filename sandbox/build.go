package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/kas-agentk/kas/sandbox/filelock"
)

// stillBuilding is how often Build tells that it is still at it.
const stillBuilding = 10 * time.Second

// Part is something that Build builds: one Go module and its programs.
type Part string

// The parts.
const (
	// PartKubernetes is etcd, kube-apiserver, kube-controller-manager,
	// kube-scheduler and kubectl in one program.
	PartKubernetes Part = "kubernetes"
	// PartKwok is kwok, which plays nodes, and its stages.
	PartKwok Part = "kwok"
	// PartGitaly is gitaly and the helpers that it starts.
	PartGitaly Part = "gitaly"
)

// AllParts is every Part, in the order in which they are built.
func AllParts() []Part { return []Part{PartKubernetes, PartKwok, PartGitaly} }

// BuildConfig is what Build builds and where. The zero value builds everything into
// the user's cache, silently.
type BuildConfig struct {
	// Parts to build. Default: all.
	Parts []Part
	// CacheDir keeps the programs. Default: $SANDBOX_CACHE, else
	// kas-agentk/sandbox in the user's cache folder.
	CacheDir string
	// Progress gets lines for people while something is built. Default: nowhere.
	Progress io.Writer
}

// Programs is where the built programs are. A path is empty where its part was not
// asked for.
type Programs struct {
	// Kubernetes is the multi-call program; its first argument names the part.
	Kubernetes string
	// Kubectl is the same program by the name of kubectl.
	Kubectl string
	// Kwok is kwok, and KwokStages the file that tells it how nodes and pods live.
	Kwok       string
	KwokStages string
	// GitalyDir holds gitaly, gitaly-hooks and gitaly-ssh.
	GitalyDir string
}

// builder is one call of Build.
type builder struct {
	cache     string
	source    string // folder of the main module
	goVersion string
	out       io.Writer
}

// Build builds the parts that the cache does not hold yet. Several processes may
// call it at the same time: one builds, the others wait and say so. An error of the
// compiler is in the error, with its output.
func Build(ctx context.Context, cfg BuildConfig) (Programs, error) {
	b, err := newBuilder(ctx, cfg)
	if err != nil {
		return Programs{}, fmt.Errorf("build sandbox: %w", err)
	}
	var programs Programs
	for _, part := range cfg.parts() {
		r, ok := recipes[part]
		if !ok {
			return Programs{}, fmt.Errorf("build sandbox: unknown part %q", part)
		}
		dir, err := b.ensure(ctx, part, r)
		if err != nil {
			return Programs{}, fmt.Errorf("build sandbox: %w", err)
		}
		switch part {
		case PartKubernetes:
			programs.Kubernetes = filepath.Join(dir, "k8s")
			programs.Kubectl = filepath.Join(dir, "kubectl")
		case PartKwok:
			programs.Kwok = filepath.Join(dir, "kwok")
			programs.KwokStages = filepath.Join(dir, stagesFile)
		case PartGitaly:
			programs.GitalyDir = dir
		}
	}
	return programs, nil
}

// Missing is the parts that Build would have to build, which takes minutes and
// gigabytes.
func Missing(ctx context.Context, cfg BuildConfig) ([]Part, error) {
	b, err := newBuilder(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("look for the sandbox's programs: %w", err)
	}
	var missing []Part
	for _, part := range cfg.parts() {
		dir, err := b.dir(part, recipes[part])
		if err != nil {
			return nil, fmt.Errorf("look for the sandbox's programs: %w", err)
		}
		if !exists(dir) {
			missing = append(missing, part)
		}
	}
	return missing, nil
}

func (c BuildConfig) parts() []Part {
	if len(c.Parts) == 0 {
		return AllParts()
	}
	return c.Parts
}

func newBuilder(ctx context.Context, cfg BuildConfig) (*builder, error) {
	b := &builder{out: cfg.Progress}
	if b.out == nil {
		b.out = io.Discard
	}
	var err error
	if b.cache, err = CacheDir(cfg.CacheDir); err != nil {
		return nil, err
	}
	if b.source, err = Source(ctx); err != nil {
		return nil, err
	}
	if b.goVersion, err = goOutput(ctx, b.source, "env", "GOVERSION"); err != nil {
		return nil, fmt.Errorf("find the version of Go: %w", err)
	}
	return b, nil
}

// ensure returns the folder of a built part, building it first where need be.
func (b *builder) ensure(ctx context.Context, part Part, r recipe) (string, error) {
	dir, err := b.dir(part, r)
	if err != nil || exists(dir) {
		return dir, err
	}
	if err := os.MkdirAll(b.cache, 0o750); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	unlock, err := filelock.Wait(ctx, filepath.Join(b.cache, ".lock"), func(taken *filelock.TakenError) {
		b.say("process %d is building parts of the sandbox: waiting for it", taken.PID)
	})
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(dir) { // built by whom we waited for
		return dir, nil
	}
	if err := b.build(ctx, part, r, dir); err != nil {
		return "", fmt.Errorf("%s: %w", part, err)
	}
	return dir, nil
}

// build builds into a folder beside dir and renames it, so that dir is whole
// whenever it exists.
func (b *builder) build(ctx context.Context, part Part, r recipe, dir string) error {
	b.say("building %s (%s): once, about %s on two cores", part, r.what, r.usually)
	temp := filepath.Join(b.cache, ".building-"+string(part))
	// The lock is ours, so a folder of that name was left by a build that was killed.
	if err := os.RemoveAll(temp); err != nil {
		return fmt.Errorf("remove what an earlier build left: %w", err)
	}
	if err := os.Mkdir(temp, 0o750); err != nil {
		return fmt.Errorf("make build folder: %w", err)
	}
	began := time.Now()
	if err := b.compile(ctx, part, r, temp); err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	if r.after != nil {
		if err := r.after(ctx, filepath.Join(b.source, r.module), temp); err != nil {
			return errors.Join(err, os.RemoveAll(temp))
		}
	}
	if err := os.Rename(temp, dir); err != nil {
		return fmt.Errorf("put the built programs in place: %w", err)
	}
	b.say("built %s in %.0f s", part, time.Since(began).Seconds())
	return nil
}

// compile runs go build and says every now and then that it still does.
func (b *builder) compile(ctx context.Context, part Part, r recipe, out string) error {
	args := append([]string{"build", "-ldflags", r.ldflags, "-o", out + string(filepath.Separator)}, r.packages...)
	cmd := goCommand(ctx, filepath.Join(b.source, r.module), args...)
	cmd.Env = append(cmd.Env, r.env...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run go build: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(stillBuilding)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("go build in %s: %w\n%s", cmd.Dir, errors.Join(ctx.Err(), err), &output)
			}
			return nil
		case <-tick.C:
			b.say("building %s: %.0f s so far", part, time.Since(began).Seconds())
		}
	}
}

func (b *builder) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, "sandbox: "+format+"\n", args...)
}
