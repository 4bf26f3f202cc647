package diagnose

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/grpctool"
)

const (
	// maxLost pings are enough to know, and those that took enoughPings times PingTimeout
	// together: an answer with them has to come in time.
	maxLost     = 2
	enoughPings = 2
	// maxKinds and maxNamespaces of a kind are what an agent looks at.
	maxKinds, maxNamespaces = 500, 50
)

// ping measures how long it takes to the agent and back, and how its clock goes.
func (s *Server) ping(ctx context.Context, agentID int64) *railsrpc.Pings {
	client := agentrpc.NewDiagnosticsClient(s.with.Tunnel.Here(agentID))
	p := &railsrpc.Pings{}
	var times []time.Duration
	var spent time.Duration
	for range s.cfg.Pings {
		if spent >= enoughPings*s.cfg.PingTimeout {
			break
		}
		began := s.cfg.Clock.Now()
		theirs, err := s.pingOnce(ctx, client)
		took := s.cfg.Clock.Since(began)
		spent += took
		p.Sent++
		if err != nil {
			p.Error = grpctool.Words(err)
			if p.Lost++; p.GetLost() == maxLost {
				break
			}
			continue
		}
		if len(times) == 0 || took < slices.Min(times) {
			p.ClockSkew = durationpb.New(theirs.Sub(began.Add(took / 2)))
			p.ClockError = durationpb.New(took / 2)
		}
		times = append(times, took)
	}
	if len(times) > 0 {
		slices.Sort(times)
		p.RttP50, p.RttWorst = durationpb.New(times[len(times)/2]), durationpb.New(times[len(times)-1])
	}
	return p
}

func (s *Server) pingOnce(ctx context.Context, client agentrpc.DiagnosticsClient) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PingTimeout)
	defer cancel()
	answer, err := client.Ping(ctx, &agentrpc.PingRequest{})
	if err != nil {
		return time.Time{}, err
	}
	return answer.GetNow().AsTime(), nil
}

// ask has the agent look at itself and its cluster.
func (s *Server) ask(ctx context.Context, found *railsrpc.DiagnoseResponse) {
	id := found.GetAgentId()
	answer, err := agentrpc.NewDiagnosticsClient(s.with.Tunnel.Conn(id)).Diagnose(ctx, &agentrpc.DiagnoseRequest{
		AgentId: id, Kinds: s.kinds(ctx, id, found.GetProjects()),
	})
	if err != nil {
		found.AgentError = grpctool.Words(err)
		return
	}
	found.Agent = answer
}

// kinds of the objects of projects, ordered.
func (s *Server) kinds(ctx context.Context, agentID int64, projects []*syncstatus.ProjectStatus) []*agentrpc.UsedKind {
	type groupKind struct{ group, kind string }
	known := map[groupKind]*agentrpc.UsedKind{}
	var all []*agentrpc.UsedKind
	for _, project := range projects {
		whole, _ := s.with.Statuses.Get(ctx, agentID, project.GetProjectId())
		for _, object := range whole.GetObjects() {
			id := object.GetId()
			key := groupKind{id.GetGroup(), id.GetKind()}
			used := known[key]
			if used == nil {
				if len(all) == maxKinds {
					continue
				}
				used = &agentrpc.UsedKind{Group: id.GetGroup(), Kind: id.GetKind()}
				known[key] = used
				all = append(all, used)
			}
			if ns := id.GetNamespace(); ns != "" && len(used.GetNamespaces()) < maxNamespaces && !slices.Contains(used.GetNamespaces(), ns) {
				used.Namespaces = append(used.Namespaces, ns)
			}
		}
	}
	slices.SortFunc(all, func(a, b *agentrpc.UsedKind) int {
		return cmp.Or(cmp.Compare(a.GetGroup(), b.GetGroup()), cmp.Compare(a.GetKind(), b.GetKind()))
	})
	return all
}
