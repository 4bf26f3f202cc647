package agents

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
)

func TestRegistry_RemembersHowConnectionsEnded(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(epoch)
	registry, err := NewRegistry(clk, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if got := registry.Departed(7); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	first := registry.add(seven(), &agentrpc.AgentMeta{InstanceId: 1})
	clk.SetTime(epoch.Add(time.Minute))
	second := registry.add(seven(), &agentrpc.AgentMeta{InstanceId: 1}) // opened anew before the first has ended
	first("not the last stream")
	if got := registry.Departed(7); len(got) != 0 {
		t.Errorf("the process is still connected: %v", got)
	}
	second("killed")
	got := registry.Departed(7)
	if len(got) != 1 || got[0].GetReason() != "killed" || got[0].GetLasted().AsDuration() != time.Minute || !got[0].GetAt().AsTime().Equal(epoch.Add(time.Minute)) {
		t.Errorf("got %v", got)
	}
	for i := range maxDepartures + 1 {
		registry.add(seven(), nil)(fmt.Sprint(i))
	}
	if got = registry.Departed(7); len(got) != maxDepartures || got[0].GetReason() != fmt.Sprint(maxDepartures) {
		t.Errorf("the newest come first, and are bounded: %v", got)
	}
}
