package kas

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/replicas"
)

// said is what replicas have said, without Redis.
type said struct {
	mu      sync.Mutex
	here    map[int64][]byte
	entries []replicas.Entry
	err     error
}

func (s *said) Here(agentID int64, entry []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.here[agentID] = entry
}

func (s *said) Entries(_ context.Context, ids []int64) ([]replicas.Entry, error) {
	return slices.DeleteFunc(slices.Clone(s.entries), func(e replicas.Entry) bool {
		return len(ids) > 0 && !slices.Contains(ids, e.AgentID)
	}), s.err
}

func (s *said) of(agentID int64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.here[agentID]
}

func connection(agentID, instance, project int64, at time.Time) *railsrpc.ConnectedAgent {
	return &railsrpc.ConnectedAgent{AgentId: agentID, InstanceId: instance, ProjectId: project, ConnectedAt: timestamppb.New(at)}
}

func entryOf(url string, agents ...*railsrpc.ConnectedAgent) replicas.Entry {
	data, err := proto.Marshal(&railsrpc.GetConnectedAgentsResponse{Agents: agents})
	if err != nil {
		panic(err)
	}
	return replicas.Entry{AgentID: agents[0].GetAgentId(), URL: url, Data: data}
}

func TestPresence_ListsTheAgentsOfAllReplicasOnceEach(t *testing.T) {
	early, late := time.Unix(100, 0), time.Unix(200, 0)
	local := []*railsrpc.ConnectedAgent{connection(7, 1, 3, early), connection(9, 1, 4, early)}
	s := &said{entries: []replicas.Entry{
		entryOf("grpc://self", connection(7, 5, 3, late)), // what Redis says of this one is old
		entryOf("grpc://b", connection(7, 1, 3, late), connection(7, 2, 3, early)),
		entryOf("grpc://c", connection(8, 1, 3, early), connection(7, 9, 3, early)), // of another agent than it says
		{AgentID: 9, URL: "grpc://c", Data: []byte("nonsense")},
		{AgentID: 9, URL: "grpc://c"},
	}}
	c := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	p := newPresence("grpc://self", s, c)
	p.connected = func(ids []int64, project *int64) []*railsrpc.ConnectedAgent {
		return slices.DeleteFunc(slices.Clone(local), func(c *railsrpc.ConnectedAgent) bool {
			return len(ids) > 0 && !slices.Contains(ids, c.GetAgentId()) || project != nil && c.GetProjectId() != *project
		})
	}
	type found struct{ agent, instance, at int64 }
	list := func(project *int64, ids ...int64) (out []found) {
		for _, c := range p.Connected(t.Context(), ids, project) {
			out = append(out, found{c.GetAgentId(), c.GetInstanceId(), c.GetConnectedAt().GetSeconds()})
		}
		return out
	}
	all := []found{{7, 1, 200}, {7, 2, 100}, {8, 1, 100}, {9, 1, 100}}
	require.Equal(t, all, list(nil))
	require.Equal(t, all[:2], list(nil, 7, 7))
	require.Equal(t, all[:3], list(proto.Int64(3)))
	require.Empty(t, list(proto.Int64(5)))
	// With Redis away there is, for a while, what was.
	s.entries, s.err = nil, errors.New("Redis is away")
	require.Equal(t, all, list(nil))
	require.Equal(t, all[2:3], list(nil, 8))
	require.Equal(t, all[:3], list(proto.Int64(3)))
	c.SetTime(time.Unix(1060, 0))
	require.Equal(t, []found{{7, 1, 100}, {9, 1, 100}}, list(nil))
	// It is back, and one has gone.
	s.entries, s.err = []replicas.Entry{entryOf("grpc://b", connection(7, 2, 3, early))}, nil
	require.Equal(t, []found{{7, 1, 100}, {7, 2, 100}}, list(nil, 7, 8))
	s.err = errors.New("Redis is away")
	require.Equal(t, []found{{7, 1, 100}, {7, 2, 100}}, list(nil, 7, 8))
}

func TestPresence_SaysWhatIsHere(t *testing.T) {
	s := &said{here: map[int64][]byte{}}
	p := newPresence("grpc://self", s, clock.RealClock{})
	var mu sync.Mutex
	var services []string
	var connected []*railsrpc.ConnectedAgent
	set := func(offered []string, agents ...*railsrpc.ConnectedAgent) {
		mu.Lock()
		defer mu.Unlock()
		services, connected = offered, agents
	}
	p.services = func(int64) []string { mu.Lock(); defer mu.Unlock(); return services }
	p.connected = func([]int64, *int64) []*railsrpc.ConnectedAgent { mu.Lock(); defer mu.Unlock(); return connected }
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.run(ctx) }()
	await := func(holds func(entry []byte) bool) {
		t.Helper()
		p.note(7)
		testkit.Eventually(t, func() error {
			if entry := s.of(7); !holds(entry) {
				return errors.New("it says " + string(entry))
			}
			return nil
		})
	}
	set([]string{"a"})
	await(func(entry []byte) bool { return entry != nil && len(entry) == 0 }) // it has streams, and nothing more
	one := connection(7, 1, 3, time.Unix(100, 0))
	set(nil, one)
	await(func(entry []byte) bool {
		got := &railsrpc.GetConnectedAgentsResponse{}
		return len(entry) > 0 && proto.Unmarshal(entry, got) == nil && proto.Equal(got.GetAgents()[0], one)
	})
	set(nil)
	await(func(entry []byte) bool { return entry == nil })
	cancel()
	require.NoError(t, <-ran)
}
