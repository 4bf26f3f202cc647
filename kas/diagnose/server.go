package diagnose

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// Tunnel reaches agents.
type Tunnel interface {
	// Conn is an agent, wherever it is connected; Here is one that is connected here.
	Conn(agentID int64) grpc.ClientConnInterface
	Here(agentID int64) grpc.ClientConnInterface
	// Services are those that the agent offers here, ordered; none: it is not here.
	Services(agentID int64) []string
	Streams(agentID int64) []*railsrpc.TunnelStreams
}

// Agents knows which agents are connected to this kas, and how earlier connections ended,
// the newest first.
type Agents interface {
	Connected(agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent
	Departed(agentID int64) []*agentrpc.Disconnection
}

// Statuses knows how far manifest projects are; kas/status says what each method does.
type Statuses interface {
	Get(ctx context.Context, agentID int64, projectID string) (*syncstatus.ProjectStatus, bool)
	List(ctx context.Context, agentID int64) ([]*syncstatus.ProjectStatus, *syncstatus.ConfigurationStatus)
}

// Others are the other kas.
type Others interface {
	// All returns connections to their servers, by URL, which have what Server.Local is.
	All(ctx context.Context) (map[string]grpc.ClientConnInterface, error)
}

// Config of a Server. What is zero has the default that is named.
type Config struct {
	// Self is the URL of this kas's private API; empty: it is alone.
	Self string
	// Timeout of an answer: 25 s, which is less than RoR waits.
	Timeout time.Duration
	// AskTimeout is how long another kas may take for its view: 8 s.
	AskTimeout time.Duration
	// Pings are how many are sent at the most, 5, of which each may take PingTimeout, 2 s.
	Pings       int
	PingTimeout time.Duration
	// Clock; nil: the real one.
	Clock clock.PassiveClock
}

func (c Config) withDefaults() Config {
	c.Timeout = cmp.Or(c.Timeout, 25*time.Second)
	c.AskTimeout = cmp.Or(c.AskTimeout, 8*time.Second)
	c.Pings = cmp.Or(c.Pings, 5)
	c.PingTimeout = cmp.Or(c.PingTimeout, 2*time.Second)
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	return c
}

// Collaborators are whom a Server works with.
type Collaborators struct {
	Tunnel   Tunnel
	Agents   Agents
	Statuses Statuses
	// Others; nil: this kas is alone.
	Others Others
}

// Server implements railsrpc.AgentDiagnosticsServer.
type Server struct {
	railsrpc.UnimplementedAgentDiagnosticsServer
	cfg  Config
	with Collaborators
}

// NewServer returns a Server.
func NewServer(cfg Config, with Collaborators) *Server {
	return &Server{cfg: cfg.withDefaults(), with: with}
}

// Local answers for this kas alone: it is for the private API.
func (s *Server) Local() railsrpc.AgentDiagnosticsServer { return &local{server: s} }

type local struct {
	railsrpc.UnimplementedAgentDiagnosticsServer
	server *Server
}

// Diagnose implements railsrpc.AgentDiagnosticsServer.
func (l *local) Diagnose(ctx context.Context, req *railsrpc.DiagnoseRequest) (*railsrpc.DiagnoseResponse, error) {
	if err := wantAgent(req); err != nil {
		return nil, err
	}
	return &railsrpc.DiagnoseResponse{AgentId: req.GetAgentId(), Kas: []*railsrpc.KasView{l.server.look(ctx, req.GetAgentId())}}, nil
}

// Diagnose implements railsrpc.AgentDiagnosticsServer.
func (s *Server) Diagnose(ctx context.Context, req *railsrpc.DiagnoseRequest) (*railsrpc.DiagnoseResponse, error) {
	if err := wantAgent(req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	id := req.GetAgentId()
	found := &railsrpc.DiagnoseResponse{AgentId: id, Kas: s.views(ctx, id)}
	found.Projects, found.Configuration = s.with.Statuses.List(ctx, id)
	if isThere(found.GetKas()) {
		s.ask(ctx, found)
	} else {
		found.AgentError = notConnected(found.GetKas())
	}
	found.At = timestamppb.New(s.cfg.Clock.Now())
	found.Checks = judge(found, req.GetTokens())
	return found, nil
}

func wantAgent(req *railsrpc.DiagnoseRequest) error {
	if req.GetAgentId() <= 0 {
		return status.Error(codes.InvalidArgument, "agent_id is missing")
	}
	return nil
}

// isThere tells whether a process of the agent is connected to any kas.
func isThere(views []*railsrpc.KasView) bool {
	return slices.ContainsFunc(views, func(v *railsrpc.KasView) bool { return len(v.GetConnections())+len(v.GetStreams()) > 0 })
}

// notConnected says that an agent is to no kas, or to none that could be asked.
func notConnected(views []*railsrpc.KasView) string {
	if slices.ContainsFunc(views, func(v *railsrpc.KasView) bool { return v.GetError() != "" }) {
		return "not connected, as far as is known: not every kas could be asked"
	}
	return "not connected"
}

// views are what each kas knows: this one first, and of the others those that know
// something or cannot be asked, by URL.
func (s *Server) views(ctx context.Context, agentID int64) []*railsrpc.KasView {
	var others map[string]grpc.ClientConnInterface
	var lookup error
	if s.with.Others != nil {
		others, lookup = s.with.Others.All(ctx)
	}
	var mu sync.Mutex
	var theirs []*railsrpc.KasView
	var g errgroup.Group
	for url, conn := range others {
		g.Go(func() error {
			view := s.theirs(ctx, url, conn, agentID)
			if view.GetError() != "" || isThere([]*railsrpc.KasView{view}) || len(view.GetDisconnections()) > 0 {
				mu.Lock()
				defer mu.Unlock()
				theirs = append(theirs, view)
			}
			return nil
		})
	}
	all := []*railsrpc.KasView{s.look(ctx, agentID)}
	_ = g.Wait() // nothing fails
	slices.SortFunc(theirs, func(a, b *railsrpc.KasView) int { return cmp.Compare(a.GetUrl(), b.GetUrl()) })
	all = append(all, theirs...)
	if lookup != nil {
		all[0].Error = "which other kas there are cannot be found out now: " + lookup.Error()
	}
	return all
}

// theirs is what another kas knows.
func (s *Server) theirs(ctx context.Context, url string, conn grpc.ClientConnInterface, agentID int64) *railsrpc.KasView {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AskTimeout)
	defer cancel()
	answer, err := railsrpc.NewAgentDiagnosticsClient(conn).Diagnose(ctx, &railsrpc.DiagnoseRequest{AgentId: agentID})
	switch {
	case err != nil:
		return &railsrpc.KasView{Url: url, Error: grpctool.Words(err)}
	case len(answer.GetKas()) != 1:
		return &railsrpc.KasView{Url: url, Error: "it says nothing of what it knows"}
	}
	view := answer.GetKas()[0]
	view.Url = url
	return view
}

// look is what this kas knows.
func (s *Server) look(ctx context.Context, agentID int64) *railsrpc.KasView {
	view := &railsrpc.KasView{
		Url:            s.cfg.Self,
		Connections:    s.with.Agents.Connected([]int64{agentID}, nil),
		Streams:        s.with.Tunnel.Streams(agentID),
		Disconnections: s.with.Agents.Departed(agentID),
	}
	if slices.Contains(s.with.Tunnel.Services(agentID), agentrpc.Diagnostics_ServiceDesc.ServiceName) {
		view.Pings = s.ping(ctx, agentID)
	}
	return view
}
