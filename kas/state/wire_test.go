package state

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
)

func TestFieldNumbers_AreThoseOfTheAPI(t *testing.T) {
	for _, c := range []struct {
		message proto.Message
		field   string
		number  protowire.Number
	}{
		{&railsrpc.ClusterGetRequest{}, "agent_id", fieldAgentID},
		{&railsrpc.ClusterGetRequest{}, "request", fieldRequest},
		{&railsrpc.ClusterListRequest{}, "agent_id", fieldAgentID},
		{&railsrpc.ClusterListRequest{}, "request", fieldRequest},
		{&railsrpc.ClusterWatchRequest{}, "agent_id", fieldAgentID},
		{&railsrpc.ClusterWatchRequest{}, "request", fieldRequest},
		{&railsrpc.ListFleetResponse{}, "agent_id", fleetAgentID},
		{&railsrpc.ListFleetResponse{}, "response", fleetResponse},
		{&clusterstate.ListResponse{}, "source", listSource},
		{&clusterstate.ListRequest{}, "query", requestQuery},
		{&clusterstate.ListRequest{}, "limit", requestLimit},
		{&clusterstate.WatchRequest{}, "query", requestQuery},
		{&clusterstate.WatchRequest{}, "cursor", requestCursor},
		{&clusterstate.WatchResponse{}, "source", watchSource},
		{&clusterstate.WatchResponse{}, "columns", watchColumns},
		{&clusterstate.WatchResponse{}, "reset", watchReset},
		{&clusterstate.WatchResponse{}, "events", watchEvents},
		{&clusterstate.WatchResponse{}, "synced", watchSynced},
		{&clusterstate.WatchResponse{}, "cursor", watchCursor},
		{&clusterstate.Event{}, "type", eventType},
		{&clusterstate.Event{}, "item", eventItem},
		{&clusterstate.Item{}, "namespace", itemNamespace},
		{&clusterstate.Item{}, "name", itemName},
		{&clusterstate.Item{}, "created", itemCreated},
		{&clusterstate.Item{}, "cells", itemCells},
	} {
		fields := c.message.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if (string(f.Name()) == c.field) != (f.Number() == c.number) {
				t.Errorf("%s is not field %d of %T", c.field, c.number, c.message)
			}
		}
	}
}

func TestQuestion_MergesWhatComesTwice(t *testing.T) {
	one, _ := proto.Marshal(&railsrpc.ClusterGetRequest{AgentId: 5, Request: &clusterstate.GetRequest{Name: "a", Namespace: "n"}})
	two, _ := proto.Marshal(&railsrpc.ClusterGetRequest{AgentId: 7, Request: &clusterstate.GetRequest{Name: "b"}})
	agentID, inner, err := question(append(one, two...))
	got := &clusterstate.GetRequest{}
	if err != nil || agentID != 7 || proto.Unmarshal(inner, got) != nil || got.GetName() != "b" || got.GetNamespace() != "n" {
		t.Errorf("got %d, %v, %v", agentID, got, err)
	}
	if _, _, err := question([]byte{0x12, 0xff}); err == nil {
		t.Error("no error")
	}
}

// whole is a message with everything in it.
func whole() *clusterstate.WatchResponse {
	return &clusterstate.WatchResponse{
		Source:  &clusterstate.Source{Kind: "Pod"},
		Columns: []*clusterstate.Column{{Name: "Name"}, {Name: "Age"}},
		Reset_:  true, Synced: true, Cursor: "c",
		Events: []*clusterstate.Event{{Type: clusterstate.EventType_EVENT_TYPE_ADDED, Item: &clusterstate.Item{Name: "a"}}, {}},
	}
}

func TestMessage_LeavesOut(t *testing.T) {
	raw, _ := proto.Marshal(whole())
	m, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, head := range []bool{true, false} {
		for _, synced := range []bool{true, false} {
			want := whole()
			if !head {
				want.Source, want.Columns = nil, nil
			}
			want.Synced = synced
			got := &clusterstate.WatchResponse{}
			if err := proto.Unmarshal(m.encode(head, synced), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		}
	}
}

func TestAged_ComputesAgesOnly(t *testing.T) {
	now := started
	item := &clusterstate.Item{Name: "a", Created: now.Add(-90 * time.Second).Unix(), Cells: []string{"a", "old", "c", "older", "90s"}, Json: []byte("{}")}
	raw, _ := proto.Marshal(item)
	got := &clusterstate.Item{}
	if err := proto.Unmarshal(aged(raw, []bool{false, true, false, true, true}, now), got); err != nil {
		t.Fatal(err)
	}
	item.Cells[1], item.Cells[3] = "90s", "90s"
	if diff := cmp.Diff(item, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	for name, ages := range map[string][]bool{
		"the age is right already": {4: true}, "there is no such column": {7: true}, "no column tells an age": nil,
	} {
		if cmp.Diff(raw, aged(raw, ages, now)) != "" {
			t.Errorf("%s, yet it changed", name)
		}
	}
}

func TestAgesOf_FindsThemBesideWhatCannotBeRead(t *testing.T) {
	name, _ := proto.Marshal(&clusterstate.Column{Name: "Age"})
	age, _ := proto.Marshal(&clusterstate.Column{Name: "Since", Age: true})
	if got := agesOf([][]byte{{}, name, {0xff}}); got != nil {
		t.Errorf("no column tells an age, yet %v", got)
	}
	if got := agesOf([][]byte{{}, name, {0xff}, age}); !slices.Equal(got, []bool{3: true}) {
		t.Errorf("found %v", got)
	}
}

// FuzzShared_Apply: an agent may send anything.
func FuzzShared_Apply(f *testing.F) {
	raw, _ := proto.Marshal(whole())
	f.Add(raw, raw)
	f.Add([]byte{}, []byte{0x22, 0x02, 0x08, 0x07})
	f.Add([]byte{0x18, 0x01, 0x28, 0x01}, []byte{0x22, 0x80})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		b := &budget{most: 1 << 20, metrics: newMetrics(newRegistry())}
		sh := newShared(clocktesting.NewFakePassiveClock(started), limits{watchBytes: 1 << 20, logBytes: 1 << 10, logMessages: 2}, b)
		for _, raw := range [][]byte{first, second, second} {
			m, err := parse(raw)
			if err != nil || sh.apply(&m) != nil {
				break
			}
			step, _, err := sh.next(place{})
			if err != nil {
				t.Fatal(err)
			}
			if step.snapshot != nil {
				for _, item := range step.snapshot.items {
					aged(item, []bool{true}, started)
				}
			}
		}
		sh.end(errDraining)
		if kept := b.kept.Load(); kept != 0 {
			t.Errorf("%d bytes are still counted", kept)
		}
	})
}
