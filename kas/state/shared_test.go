package state

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/clusterstate"
)

// told applies a message of an agent.
func told(t *testing.T, sh *shared, m *clusterstate.WatchResponse) {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := sh.apply(&parsed); err != nil {
		t.Fatal(err)
	}
}

func smallShared() *shared {
	return newShared(clocktesting.NewFakePassiveClock(started), limits{watchBytes: 1 << 20, logBytes: 1 << 20, logMessages: 3},
		&budget{most: 1 << 20, metrics: newMetrics(newRegistry())})
}

func TestShared_FindsOnlyWhatItStillHas(t *testing.T) {
	sh := smallShared()
	find := func(cursor string) string {
		at, _, ok := sh.find(cursor)
		if !ok {
			return "not found"
		}
		step, _, err := sh.next(at)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%d to tell", len(step.log))
	}
	told(t, sh, &clusterstate.WatchResponse{Reset_: true, Cursor: "middle"})
	if got := find("middle"); got != "not found" {
		t.Errorf("while it is being told: %s", got)
	}
	told(t, sh, &clusterstate.WatchResponse{Synced: true, Cursor: "0"})
	for i := 1; i <= 5; i++ {
		told(t, sh, &clusterstate.WatchResponse{Cursor: fmt.Sprint(i)})
	}
	for cursor, want := range map[string]string{
		"": "not found", "middle": "not found", "0": "not found", "1": "not found",
		"2": "3 to tell", "3": "2 to tell", "4": "1 to tell", "5": "0 to tell", "6": "not found",
	} {
		if got := find(cursor); got != want {
			t.Errorf("cursor %q: %s, want %s", cursor, got, want)
		}
	}
	told(t, sh, &clusterstate.WatchResponse{Reset_: true, Synced: true, Cursor: "9"})
	if find("5") != "not found" || find("9") != "0 to tell" {
		t.Errorf("after it has begun anew: 5 %s, 9 %s", find("5"), find("9"))
	}
	sh.end(errDraining)
	if got := find("9"); got != "not found" {
		t.Errorf("in the end: %s", got)
	}
}

// TestShared_TellsNobodyBeforeItKnowsAll: nor those who knew what was before.
func TestShared_TellsNobodyBeforeItKnowsAll(t *testing.T) {
	sh := smallShared()
	defer sh.end(errDraining)
	told(t, sh, &clusterstate.WatchResponse{Reset_: true, Synced: true, Cursor: "0"})
	_, knows, err := sh.next(place{})
	if err != nil {
		t.Fatal(err)
	}
	event := &clusterstate.Event{Type: clusterstate.EventType_EVENT_TYPE_ADDED, Item: &clusterstate.Item{Name: "a"}}
	told(t, sh, &clusterstate.WatchResponse{Reset_: true, Events: []*clusterstate.Event{event}, Cursor: "middle"})
	for _, at := range []place{{}, knows} {
		if step, _, err := sh.next(at); err != nil || step.wait == nil || step.told {
			t.Errorf("at %v: %v, %v", at, step, err)
		}
	}
	told(t, sh, &clusterstate.WatchResponse{Synced: true, Cursor: "1"})
	for _, at := range []place{{}, knows} {
		if step, _, err := sh.next(at); err != nil || step.snapshot == nil || len(step.snapshot.items) != 1 || step.behind {
			t.Errorf("at %v: %v, %v", at, step, err)
		}
	}
}
