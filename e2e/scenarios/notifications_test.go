package scenarios

import (
	"strings"
	"testing"
	"time"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/e2e/harness"
)

// What RoR tells kas is told here to a kas that would not find out by itself for an hour.
// That ror tells its own kas is what BenchmarkPushToCluster measures.

func TestGitPushEvent_WaitsForNoPoll(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	kas := f.NewKas(time.Hour)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "0"))
	commit := f.Manifests.Push("Create")
	f.Agentk = f.NewAgentkOf(kas.AgentAddress, "agentk")
	f.Start(f.Agentk)
	f.WaitSynced(commit)

	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit = f.Manifests.Push("Change")
	notifications := railsrpc.NewNotificationsClient(f.DialAPI(kas.APIAddress))
	_, err := notifications.GitPushEvent(t.Context(), &railsrpc.GitPushEventRequest{Project: &railsrpc.Project{FullPath: f.Manifests.Path}})
	if err != nil {
		t.Fatal(err)
	}
	f.WaitConfigMap("a", "1")
	f.WaitSynced(commit)
}

func TestAgentTokenRevoked_EndsItsStreams(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	kas := f.NewKasWith(time.Hour, func(config string) string {
		before, after, ok := strings.Cut(config, "info_cache_ttl: 2s")
		if !ok {
			t.Fatalf("how long a token is believed is not in the configuration:\n%s", config)
		}
		return before + "info_cache_ttl: 1h" + after
	})
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "0"))
	commit := f.Manifests.Push("Create")
	f.Agentk = f.NewAgentkOf(kas.AgentAddress, "agentk")
	f.Start(f.Agentk)
	f.WaitSynced(commit)

	if err := f.Client().RevokeToken(t.Context(), f.Config.Path, f.Agent.ID, f.Token.ID); err != nil {
		t.Fatal(err)
	}
	notifications := railsrpc.NewNotificationsClient(f.DialAPI(kas.APIAddress))
	if _, err := notifications.AgentTokenRevoked(t.Context(), &railsrpc.AgentTokenRevokedRequest{AgentId: f.Agent.ID}); err != nil {
		t.Fatal(err)
	}
	f.Eventually(func() error { return contains(f.Agentk.LogTail(), "token unknown or revoked") })
}
