package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kas-agentk/kas/e2e/harness"
)

func TestKasRestarted_AgentComesBackAndTouchesNothing(t *testing.T) {
	f := env.New(t)
	for i := range 50 {
		name := fmt.Sprintf("cm-%02d", i)
		f.Manifests.Write(name+".yaml", harness.ConfigMap(name, "1"))
	}
	commit := f.Manifests.Push("Create")
	f.WaitSynced(commit)
	before := f.ConfigMapVersions()
	for name, end := range map[string]func() error{
		"stopped": f.Stack.Kas.Stop,
		"killed":  func() error { f.Stack.Kas.Kill(); return nil },
	} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		f.Start(f.Stack.Kas)
		waitConnected(f)
		f.WaitSynced(commit)
		if diff := cmp.Diff(before, f.ConfigMapVersions()); diff != "" {
			t.Errorf("objects were touched after kas was %s (-before +after):\n%s", name, diff)
		}
	}
}

// BenchmarkReconnect measures how long an agent is without kas when kas is killed and
// started again: from the moment that kas serves, and from the kill.
//
//	E2E_RACE=0 go test -run '^$' -bench Reconnect -benchtime 10x ./e2e/faults
func BenchmarkReconnect(b *testing.B) {
	f := env.New(b)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	var up, whole []time.Duration
	for b.Loop() {
		begun := time.Now()
		f.Stack.Kas.Kill()
		f.Start(f.Stack.Kas)
		serves := time.Now()
		waitConnected(f)
		up = append(up, time.Since(serves))
		whole = append(whole, time.Since(begun))
	}
	for name, took := range map[string][]time.Duration{"after-start": up, "after-kill": whole} {
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2])/float64(time.Millisecond), name+"-p50-ms")
		b.ReportMetric(float64(took[len(took)-1])/float64(time.Millisecond), name+"-max-ms")
	}
}

// waitConnected waits until kas, which knows nothing of what was before it was
// started, says that the fixture's agent is connected.
func waitConnected(f *harness.Fixture) {
	f.T.Helper()
	f.Eventually(func() error {
		agents, err := f.Client().Agents(f.T.Context(), f.Config.Path)
		if err != nil {
			return err
		}
		if len(agents) != 1 || agents[0].Connected == nil || !*agents[0].Connected {
			return fmt.Errorf("ror says %+v", agents)
		}
		return nil
	})
}

// contains is an error unless s contains part.
func contains(s, part string) error {
	if !strings.Contains(s, part) {
		return fmt.Errorf("no %q in %s", part, s)
	}
	return nil
}
