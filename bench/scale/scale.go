package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/bench/contender"
	"github.com/kas-agentk/kas/bench/objects"
	"github.com/kas-agentk/kas/bench/plane"
	"github.com/kas-agentk/kas/sandbox/stack"
)

// Config is what to measure.
type Config struct {
	Plane *plane.Plane
	// Agentk is the path of the program, Dir a directory for its files.
	Agentk, Dir string
	// Case is what it manages.
	Case objects.Case
	// Settle is how long it is left alone before it counts as idle.
	Settle time.Duration
	// DriftEdits is how many foreign edits are made; zero: none. The case must be of
	// ConfigMaps.
	DriftEdits int
	// ProfileDir, unless empty, is where a heap profile of the idle agentk goes.
	ProfileDir string
	Progress   io.Writer
}

// Figures of agentk with one case.
type Figures struct {
	Case    string `json:"case"`
	Objects int    `json:"objects"`

	// Cold: from the moment the set is sent until agentk reports that all is applied.
	ColdSeconds float64 `json:"cold_seconds"`
	// ColdPeakBytes is the largest resident set size until then.
	ColdPeakBytes int64 `json:"cold_peak_bytes"`
	// IdleBytes is the resident set size after SettleSeconds without anything to do.
	IdleBytes     int64   `json:"idle_bytes"`
	SettleSeconds float64 `json:"settle_seconds"`

	// Unchanged: a new commit that holds the same objects, from its being sent until
	// the report. Requests do not count renewals of the lease.
	UnchangedSeconds    float64        `json:"unchanged_seconds"`
	UnchangedCPUSeconds float64        `json:"unchanged_cpu_seconds"`
	UnchangedRequests   plane.Requests `json:"unchanged_requests"`

	// Restart: from the start of a new process until its report that all is applied.
	RestartSeconds    float64        `json:"restart_seconds"`
	RestartCPUSeconds float64        `json:"restart_cpu_seconds"`
	RestartPeakBytes  int64          `json:"restart_peak_bytes"`
	RestartRequests   plane.Requests `json:"restart_requests"`

	// Drift, where it was measured.
	Drift *Drift `json:"drift,omitempty"`
}

// patience is how long any step may take.
const patience = 10 * time.Minute

// rig is what is set up for one measurement.
type rig struct {
	cfg    Config
	kas    *kas
	agentk *stack.Agentk
	meter  *plane.Meter
	set    []objects.Object
	prefix string
}

// Measure measures one case.
func Measure(ctx context.Context, cfg Config) (f Figures, err error) {
	prefix := "scale-" + cfg.Case.Name
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return f, fmt.Errorf("make a directory: %w", err)
	}
	for _, ns := range []string{prefix, prefix + "-agentk"} {
		if err := cfg.Plane.CreateNamespace(ctx, ns); err != nil {
			return f, err
		}
	}
	defer func() {
		err = errors.Join(err, cfg.Plane.Clear(context.WithoutCancel(ctx), prefix, prefix+"-agentk"))
	}()
	set, err := cfg.Case.Make(prefix, 0)
	if err != nil {
		return f, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return f, fmt.Errorf("listen for agentk: %w", err)
	}
	k := newKAS()
	g.Go(func() error { return k.run(ctx, l) })
	g.Go(func() error {
		defer cancel()
		r := &rig{cfg: cfg, kas: k, set: set, prefix: prefix}
		var err error
		f, err = r.measure(ctx, "grpc://"+l.Addr().String())
		return err
	})
	return f, g.Wait()
}

func (r *rig) measure(ctx context.Context, address string) (f Figures, err error) {
	r.agentk, err = stack.NewAgentk(stack.AgentkConfig{
		Dir: r.cfg.Dir, Program: r.cfg.Agentk, KasAddress: address, Token: "bench",
		Kubeconfig: r.cfg.Plane.Kubeconfig, Namespace: r.prefix + "-agentk",
		Args: []string{"--log-format=console"},
	})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, r.agentk.Close()) }()
	if r.meter, err = r.cfg.Plane.NewMeter("agentk/"); err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, r.meter.Close()) }()
	f = Figures{Case: r.cfg.Case.Title, Objects: r.cfg.Case.Size, SettleSeconds: r.cfg.Settle.Seconds()}
	for _, step := range []struct {
		name string
		run  func(context.Context, *Figures) error
	}{
		{"cold", r.cold}, {"idle", r.idle}, {"unchanged", r.unchanged}, {"restart", r.restart}, {"drift", r.drift},
	} {
		fmt.Fprintf(r.cfg.Progress, "agentk, %s: %s\n", r.cfg.Case.Title, step.name)
		stepCtx, cancel := context.WithTimeout(ctx, patience)
		err := step.run(stepCtx, &f)
		cancel()
		if err != nil {
			return f, fmt.Errorf("%s: %w\n%s", step.name, err, r.agentk.LogTail())
		}
	}
	return f, nil
}

func (r *rig) cold(ctx context.Context, f *Figures) error {
	// An empty set first: agentk is connected and leads when the clock starts.
	r.kas.push("empty", nil)
	if err := r.agentk.Start(ctx); err != nil {
		return err
	}
	if err := r.kas.await(ctx, "empty"); err != nil {
		return err
	}
	began := time.Now()
	r.kas.push("base", r.set)
	if err := r.kas.await(ctx, "base"); err != nil {
		return err
	}
	f.ColdSeconds = time.Since(began).Seconds()
	var err error
	f.ColdPeakBytes, err = contender.Memory(r.agentk.PID(), "VmHWM")
	return err
}

func (r *rig) idle(ctx context.Context, f *Figures) error {
	if err := wait(ctx, r.cfg.Settle); err != nil {
		return err
	}
	var err error
	if f.IdleBytes, err = contender.Memory(r.agentk.PID(), "VmRSS"); err != nil || r.cfg.ProfileDir == "" {
		return err
	}
	return r.profile(ctx)
}

// profile stores what is on agentk's heap.
func (r *rig) profile(ctx context.Context) (err error) {
	url := strings.TrimSuffix(r.agentk.MetricsURL, "/metrics") + "/debug/pprof/heap"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	f, err := os.Create(filepath.Join(r.cfg.ProfileDir, r.prefix+".heap"))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, resp.Body); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return nil
}

func (r *rig) unchanged(ctx context.Context, f *Figures) error {
	if _, err := r.meter.Take(); err != nil {
		return err
	}
	before, err := cpuTime(r.agentk.PID())
	if err != nil {
		return err
	}
	began := time.Now()
	r.kas.push("same", r.set)
	if err := r.kas.await(ctx, "same"); err != nil {
		return err
	}
	f.UnchangedSeconds = time.Since(began).Seconds()
	after, err := cpuTime(r.agentk.PID())
	if err != nil {
		return err
	}
	f.UnchangedCPUSeconds = (after - before).Seconds()
	if err := wait(ctx, time.Second); err != nil {
		return err
	}
	f.UnchangedRequests, err = r.meter.Take()
	return err
}

func (r *rig) restart(ctx context.Context, f *Figures) error {
	if err := r.agentk.Stop(); err != nil {
		return err
	}
	if _, err := r.meter.Take(); err != nil {
		return err
	}
	r.kas.push("again", r.set)
	began := time.Now()
	if err := r.agentk.Start(ctx); err != nil {
		return err
	}
	if err := r.kas.await(ctx, "again"); err != nil {
		return err
	}
	f.RestartSeconds = time.Since(began).Seconds()
	cpu, err := cpuTime(r.agentk.PID())
	if err != nil {
		return err
	}
	f.RestartCPUSeconds = cpu.Seconds()
	if f.RestartPeakBytes, err = contender.Memory(r.agentk.PID(), "VmHWM"); err != nil {
		return err
	}
	f.RestartRequests, err = r.meter.Take()
	return err
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
