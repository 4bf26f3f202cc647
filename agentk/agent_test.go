package agentk

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/admin"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/version"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a whole agent at work with a fake kas and a fake engine.
type rig struct {
	kas       *fakeKAS
	engine    *fakeEngine
	elector   Elector // nil: one without others
	tokenFile string
	link      *link
	probes    string
	stop      func()
}

func startAgent(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token")}
	r.kas = startFakeKAS(t, nil)
	r.run(t, "grpc://"+r.kas.address, change)
	return r
}

// run runs the agent until the test ends.
func (r *rig) run(t *testing.T, address string, change func(*Config)) {
	t.Helper()
	r.writeToken(t, "secret\n")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.probes = "http://" + l.Addr().String()
	quick := retry.Policy{Initial: time.Millisecond, Max: 20 * time.Millisecond}
	cfg := Config{
		KASAddress:    address,
		TokenFile:     r.tokenFile,
		PodName:       "agentk-0",
		Observability: l,
		Registry:      admin.NewRegistry(),
		Log:           testkit.Logger(t),
		reopen:        &reopenPolicies{lost: quick, refused: quick},
		KubernetesVersion: func(context.Context) string {
			return "v1.34.4"
		},
	}
	if change != nil {
		change(&cfg)
	}
	var elector Elector = alwaysLeads{}
	if r.elector != nil {
		elector = r.elector
	}
	a, err := New(cfg, r.engine, elector)
	require.NoError(t, err)
	r.link = a.link
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(r.stop)
}

func (r *rig) writeToken(t *testing.T, token string) {
	t.Helper()
	require.NoError(t, os.WriteFile(r.tokenFile, []byte(token), 0o600))
}

// awaitSynced waits until kas knows that project holds commit.
func (r *rig) awaitSynced(t *testing.T, project, commit string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		report := r.kas.report(project)
		if report.GetState() != syncstatus.State_STATE_SYNCED || report.GetAppliedCommitId() != commit {
			return fmt.Errorf("report is %v", report)
		}
		return nil
	})
}

// awaitReady waits until the agent says that it is ready.
func (r *rig) awaitReady(t *testing.T) {
	t.Helper()
	r.awaitProbe(t, http.StatusOK, "ok")
}

// awaitUnready waits until the agent says that it is not ready, and why.
func (r *rig) awaitUnready(t *testing.T, why string) {
	t.Helper()
	r.awaitProbe(t, http.StatusServiceUnavailable, why)
}

// awaitReason waits until the agent gives that reason for not being ready: on a busy machine an
// attempt may fail for another one first.
func (r *rig) awaitReason(t *testing.T, reason string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		if _, body := get(t, r.probes+"/readiness"); !strings.Contains(body, reason) {
			return fmt.Errorf("readiness is %s", body)
		}
		return nil
	})
}

func (r *rig) awaitProbe(t *testing.T, status int, prefix string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		if got, body := get(t, r.probes+"/readiness"); got != status || !strings.HasPrefix(body, prefix) {
			return fmt.Errorf("readiness is %d: %s", got, body)
		}
		return nil
	})
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	body := make([]byte, 64<<10)
	n, _ := resp.Body.Read(body)
	return resp.StatusCode, string(body[:n])
}

func project(id string) *agentcfg.ManifestProject { return &agentcfg.ManifestProject{Id: id} }

// A kas asks nothing of an agentk that does not tell that it knows of it.
func TestAgent_TellsWhatItIsCapableOf(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
	_, hellos, _ := r.kas.seen()
	require.Equal(t, []agentrpc.Capability{
		agentrpc.Capability_CAPABILITY_COMMANDS, agentrpc.Capability_CAPABILITY_COMPARISONS,
	}, hellos[0].GetCapabilities())
	require.Equal(t, version.Version, hellos[0].GetVersion())
}

func TestAgent_SyncsWhatKASSends(t *testing.T) {
	r := startAgent(t, nil)
	r.awaitUnready(t, "configuration: no configuration received yet")
	r.kas.configure(5, project("a"), project("b"))
	r.kas.push("a", aSet("c1", 10, "x", "y")...)
	r.kas.push("b", aSet("c2", 11)...)
	r.awaitSynced(t, "a", "c1")
	r.awaitSynced(t, "b", "c2")
	require.ElementsMatch(t, []string{"5-10", "5-11"}, r.engine.keys)
	r.awaitReady(t)

	watches, hellos, _ := r.kas.seen()
	require.Equal(t, "agentk-0", watches[0].GetAgentMeta().GetPodName())
	require.Equal(t, "v1.34.4", watches[0].GetAgentMeta().GetKubernetesVersion())
	require.NotZero(t, watches[0].GetAgentMeta().GetInstanceId())
	require.Empty(t, hellos[0].GetCommitId())
}

func TestAgent_ReconnectsAndTouchesNothing(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
	r.kas.stop()
	r.awaitUnready(t, "kas: not connected to kas")
	began := time.Now()
	r.kas.start(t)
	testkit.Eventually(t, func() error {
		if _, hellos, _ := r.kas.seen(); len(hellos) < 2 {
			return errors.New("no second hello")
		}
		return nil
	})
	t.Logf("back after %s", time.Since(began))
	r.awaitReady(t)
	watches, hellos, _ := r.kas.seen()
	require.Equal(t, "config", watches[len(watches)-1].GetCommitId())
	require.Equal(t, "c1", hellos[1].GetCommitId())
	require.Len(t, hellos[1].GetDigests(), 1)

	// Only the next commit is run again; the one before was sent again, too.
	r.kas.push("a", aSet("c2", 10, "x")...)
	r.awaitSynced(t, "a", "c2")
	require.Equal(t, []string{"c1", "c2"}, r.engine.commits())
}

func TestAgent_RevokedTokenIsReplacedWhileRunning(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
	r.kas.setToken("another")
	r.kas.stop()
	r.kas.start(t)
	r.awaitUnready(t, "kas: token unknown or revoked")
	require.NoError(t, os.Remove(r.tokenFile))
	r.awaitUnready(t, "kas: the token cannot be read: check --token-file")
	r.writeToken(t, " another\n")
	r.awaitReady(t)
	r.kas.push("a", aSet("c2", 10, "x")...)
	r.awaitSynced(t, "a", "c2")
}

func TestAgent_FollowsItsConfiguration(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"), project("b"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.kas.push("b", aSet("c1", 11, "x")...)
	r.awaitSynced(t, "a", "c1")
	r.awaitSynced(t, "b", "c1")

	changed := project("a")
	changed.DefaultNamespace = "elsewhere"
	r.kas.configure(5, changed)
	testkit.Eventually(t, func() error {
		_, hellos, _ := r.kas.seen()
		last := hellos[len(hellos)-1]
		if last.GetProject().GetDefaultNamespace() != "elsewhere" || last.GetCommitId() != "" {
			return fmt.Errorf("hello is %v", last)
		}
		return nil
	})
	testkit.Eventually(t, func() error {
		if n := len(r.engine.commits()); n != 3 {
			return fmt.Errorf("%d runs", n)
		}
		return nil
	})
	_, hellos, _ := r.kas.seen()
	require.Len(t, hellos, 3, "the project that stayed as it was, and the one that left, opened nothing")
	require.False(t, r.engine.overlap)
}

func TestAgent_TakesOverAsAnotherAgent(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
	r.kas.configure(6, project("a"))
	testkit.Eventually(t, func() error {
		r.engine.mu.Lock()
		defer r.engine.mu.Unlock()
		if !slices.Equal(r.engine.keys, []string{"5-10", "6-10"}) {
			return fmt.Errorf("runs for %v", r.engine.keys)
		}
		return nil
	})
}

func TestAgent_TrustsNoMemoryOfAnEarlierTerm(t *testing.T) {
	elector := leadsWhenTold{terms: make(chan struct{}), lose: make(chan struct{})}
	r := &rig{engine: newFakeEngine(), elector: elector, tokenFile: filepath.Join(t.TempDir(), "token")}
	r.kas = startFakeKAS(t, nil)
	r.run(t, "grpc://"+r.kas.address, nil)
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	for term := 1; term <= 2; term++ {
		elector.terms <- struct{}{}
		testkit.Eventually(t, func() error {
			if n := len(r.engine.commits()); n != term {
				return fmt.Errorf("%d runs", n)
			}
			return nil
		})
		elector.lose <- struct{}{}
	}
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	require.Equal(t, []int{0, 1}, r.engine.runsAtForget, "before the first run of each term")
}

func TestAgent_NewerCommitPreempts(t *testing.T) {
	r := startAgent(t, nil)
	began := make(chan struct{})
	r.engine.run = func(ctx context.Context, n int, d gitops.Desired, o gitops.Observer) (gitops.Result, error) {
		if n == 1 {
			close(began)
			<-ctx.Done()
			return gitops.Result{}, ctx.Err()
		}
		return created(d, o), nil
	}
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	<-began
	r.kas.push("a", aSet("c2", 10, "x")...)
	r.awaitSynced(t, "a", "c2")
	require.Equal(t, []string{"c1", "c2"}, r.engine.commits())
}

func TestAgent_SaysWhatItCannotTake(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"))
	broken := aSet("c1", 10, "x")
	r.kas.push("a", broken[0], broken[2], broken[3]) // the object is missing
	testkit.Eventually(t, func() error {
		report := r.kas.report("a")
		if report.GetState() != syncstatus.State_STATE_FAILED {
			return fmt.Errorf("report is %v", report)
		}
		return nil
	})
	require.Contains(t, r.kas.report("a").GetMessage(), "did not send it")
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
}

func TestAgent_SyncsAProjectOnceHoweverOftenItIsNamed(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("demo/a"), project("10"))
	r.kas.push("demo/a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "demo/a", "c1")
	r.kas.push("10", aSet("c1", 10, "x")...)
	testkit.Eventually(t, func() error {
		report := r.kas.report("10")
		if report.GetState() != syncstatus.State_STATE_FAILED {
			return fmt.Errorf("report is %v", report)
		}
		return nil
	})
	require.Contains(t, r.kas.report("10").GetMessage(), `names this project twice, as "demo/a" and as "10": remove one`)
	require.Equal(t, []string{"c1"}, r.engine.commits())
	r.kas.configure(5, project("10"))
	r.awaitSynced(t, "10", "c1")
}

func TestAgent_ConnectsByTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600))
	r := &rig{engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token")}
	r.kas = startFakeKAS(t, &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12})
	r.run(t, "grpcs://"+r.kas.address, func(cfg *Config) { cfg.CACertFile = caFile })
	r.kas.configure(5)
	r.awaitReady(t)
}

func TestAgent_ConnectsByWebSocket(t *testing.T) {
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600))
	for scheme, cfg := range map[string]*tls.Config{
		"ws": nil, "wss": {Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12},
	} {
		t.Run(scheme, func(t *testing.T) {
			r := &rig{engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token")}
			r.kas = startFakeKASOver(t, cfg, true)
			r.run(t, scheme+"://"+r.kas.address+"/-/kas", func(c *Config) {
				if cfg != nil {
					c.CACertFile = caFile
				}
			})
			r.kas.configure(5, project("a"))
			r.kas.push("a", aSet("c1", 10, "x")...)
			r.awaitSynced(t, "a", "c1")
			r.awaitReady(t)
			r.kas.stop()
			r.awaitUnready(t, "kas: not connected")
			r.kas.start(t)
			r.awaitReady(t)
		})
	}
}

func TestAgent_DoesNotTrustAnUnknownCertificate(t *testing.T) {
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	for scheme, webSocket := range map[string]bool{"grpcs": false, "wss": true} {
		t.Run(scheme, func(t *testing.T) {
			r := &rig{engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token")}
			r.kas = startFakeKASOver(t, &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}, webSocket)
			r.run(t, scheme+"://"+r.kas.address, nil)
			r.kas.configure(5)
			r.awaitUnready(t, "kas: not connected to kas: kas cannot be reached")
			r.awaitReason(t, "certificate signed by unknown authority")
			_, _, attempts := r.kas.seen()
			require.Zero(t, attempts, "the token went nowhere")
		})
	}
}

// The address is of the other kind: the reason can be read.
func TestAgent_SaysWhyKasCannotBeReached(t *testing.T) {
	r := &rig{engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token")}
	r.kas = startFakeKAS(t, nil)
	r.run(t, "ws://"+r.kas.address+"/", nil)
	r.awaitUnready(t, "kas: not connected to kas: kas cannot be reached")
	r.awaitReason(t, "no WebSocket is spoken there; if it is gRPC, use grpc://")
}
