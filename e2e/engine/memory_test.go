package engine_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/cluster"
	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// memoryEnv, when set, makes of the test binary a process that syncs much and then
// watches it. Its value is a hoard in JSON.
const memoryEnv = "ENGINE_TEST_MEMORY_CHILD"

// hoard is what such a process is told.
type hoard struct {
	Host, Token, CAFile string
	Namespace, Key      string
	Deployments         bool
	Objects             int
	// Idle is how long it watches before its memory is measured.
	Idle time.Duration
}

// hold prints the memory at its peak and at rest, both in KiB.
func hold(spec string) int {
	var h hoard
	if err := json.Unmarshal([]byte(spec), &h); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := h.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (h *hoard) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), childTimeout)
	defer cancel()
	rc := &rest.Config{Host: h.Host, BearerToken: h.Token, TLSClientConfig: rest.TLSClientConfig{CAFile: h.CAFile}, QPS: -1}
	objects, err := cache.New(cache.Config{RESTConfig: rc, FieldManager: cluster.FieldManager, Log: zap.NewNop()})
	if err != nil {
		return err
	}
	c, err := cluster.New(cluster.Config{RESTConfig: rc, Namespace: h.Namespace, Cache: objects})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return objects.Run(ctx) })
	p := gitops.Project{Key: h.Key, DefaultNamespace: h.Namespace, Prune: true, Propagation: "Background"}
	reporter := report.New(report.Config{Clock: clock.RealClock{}})
	result, err := gitops.Run(ctx, c, p, h.set(), reporter)
	if err != nil {
		return err
	}
	peak, _, err := memory()
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // as agentk does after a run over many objects
	watching, stop := context.WithTimeout(ctx, h.Idle)
	defer stop()
	if err := gitops.Watch(watching, c, p, result, reporter, gitops.WatchConfig{}); err != nil {
		return err
	}
	_, idle, err := memory()
	fmt.Fprintf(os.Stdout, "%d %d\n", peak, idle)
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		fmt.Fprintf(os.Stdout, "%s\n", rssLine.FindAll(status, -1))
	}
	cancel()
	return errors.Join(err, g.Wait())
}

func (h *hoard) set() gitops.Desired {
	d := gitops.Desired{Commit: "c0ffee", Set: manifests.Set{Complete: true}}
	for i := range h.Objects {
		name := fmt.Sprintf("memory-%05d", i)
		text := fmt.Sprintf(`{"apiVersion":"v1","data":{"key":%q},"kind":"ConfigMap","metadata":{"name":%q}}`, strings.Repeat("x", 2000), name)
		if h.Deployments {
			text = fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"app":%[1]q},"name":%[1]q},"spec":{"replicas":0,`+
				`"selector":{"matchLabels":{"app":%[1]q}},"template":{"metadata":{"labels":{"app":%[1]q}},"spec":{"containers":[{"image":"nginx:1","name":"main",`+
				`"ports":[{"containerPort":80}],"resources":{"requests":{"cpu":"10m","memory":"16Mi"}}}]}}}}`, name)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON([]byte(text)); err != nil {
			panic(err)
		}
		d.Set.Objects = append(d.Set.Objects, manifests.Object{
			ID: inventory.IDOf(u), JSON: []byte(text), Digest: sha256.Sum256([]byte(text)),
			Position: manifests.Position{Path: "all.yaml", Line: i + 1},
		})
	}
	return d
}

// rssLine tells the program's own pages from those of its file.
var rssLine = regexp.MustCompile(`(?m)^Rss(Anon|File):.*$`)

var memoryLine = regexp.MustCompile(`(?m)^(VmHWM|VmRSS):\s+(\d+) kB`)

// memory of this process at its peak and now, in KiB.
func memory() (peak, now int, err error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0, err
	}
	for _, m := range memoryLine.FindAllSubmatch(data, -1) {
		n, err := strconv.Atoi(string(m[2]))
		if err != nil {
			return 0, 0, err
		}
		if string(m[1]) == "VmHWM" {
			peak = n
		} else {
			now = n
		}
	}
	return peak, now, nil
}

func TestEngine_TenThousandObjectsFitIntoLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	for _, row := range []struct {
		name        string
		deployments bool
	}{{"ConfigMaps of 2 kB", false}, {"small Deployments", true}} {
		t.Run(row.name, func(t *testing.T) {
			a := newAgent(t)
			spec, err := json.Marshal(hoard{
				Host: server.Host, Token: server.BearerToken, CAFile: server.CAFile,
				Namespace: a.namespace, Key: a.project.Key, Deployments: row.deployments, Objects: 10_000, Idle: 20 * time.Second,
			})
			require.NoError(t, err)
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), memoryEnv+"="+string(spec), "GOGC=50")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			require.NoError(t, cmd.Run(), stderr.String())
			var peak, idle int
			_, err = fmt.Sscan(stdout.String(), &peak, &idle)
			require.NoError(t, err, stdout.String())
			t.Logf("peak %d MiB during the cold apply, %d MiB at rest: %s", peak>>10, idle>>10, stdout.String())
		})
	}
}
