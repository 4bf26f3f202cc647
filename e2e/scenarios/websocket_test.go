package scenarios

import (
	"strings"
	"testing"
	"time"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/e2e/harness"
)

func TestWebSocket_CarriesSyncsAndQuestions(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	kas := f.NewKasWith(200*time.Millisecond, func(config string) string {
		return strings.Replace(config, "agent:\n  listen:\n", "agent:\n  listen:\n    websocket: true\n", 1)
	})
	f.Agentk = f.NewAgentkOf("ws://"+strings.TrimPrefix(kas.AgentAddress, "grpc://")+"/-/kubernetes-agent/", "agentk")
	f.Start(f.Agentk)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	state := f.ClusterStateAt(kas.APIAddress)
	if _, err := state.Get(&clusterstate.GetRequest{Resource: core("configmaps"), Namespace: f.Name, Name: "a"}); err != nil {
		t.Error(err)
	}
	change(f, "first", "1")
	watch := state.Watch(labelled(f, clusterstate.Shape_SHAPE_OBJECT))
	watch.WaitTold(harness.ToldSynced)
	change(f, "second", "1")
	watch.WaitTold("ADDED second")
	catchUp(f, watch)
}
