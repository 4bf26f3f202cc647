package agents

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/logging"
)

// maxRemembered bounds how many configurations of agents that are away are kept.
const maxRemembered = 20_000

// commitID is a full commit ID.
var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// Files follows refs and reads files; kas/gitaly says what each method does.
type Files interface {
	Follow(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref, period time.Duration,
		notify func(gitrepo.Revision)) error
	File(ctx context.Context, repo gitrepo.Repository, commitID, path string, maxSize int64) ([]byte, error)
}

// Reporter tells RoR. Its errors wrap gitlabapi's sentinels.
type Reporter interface {
	PostAgentConfiguration(ctx context.Context, agentID int64, cfg *agentcfg.ConfigurationFile) error
}

// Status is told how agents' configurations fare. It must not block.
type Status interface {
	// Arrived says that kas now follows the configuration of an agent, because a stream of
	// it is open; Left, once for each Arrived, that it no longer does.
	Arrived(agent gitlabapi.AgentInfo)
	Left(agent gitlabapi.AgentInfo)
	// Configuration says how the newest file fares. projects are the manifest projects of
	// the configuration in force, as it names them; nil: none is in force in this kas, so
	// they are not known.
	Configuration(agent gitlabapi.AgentInfo, cfg *syncstatus.ConfigurationStatus, projects []string)
}

// ServerConfig is how configurations are read.
type ServerConfig struct {
	// PollPeriod of the configuration projects' default branches.
	PollPeriod time.Duration
	// MaxFileSize of a configuration file, in bytes.
	MaxFileSize int64
	Clock       clock.WithTicker
}

// Collaborators are whom a Server works with.
type Collaborators struct {
	Access   *Access
	Registry *Registry
	Files    Files
	Reporter Reporter
	Status   Status
	Log      *zap.Logger
}

// Server implements agentrpc.AgentConfigurationServer.
type Server struct {
	agentrpc.UnimplementedAgentConfigurationServer
	cfg  ServerConfig
	with Collaborators

	mu    sync.Mutex
	feeds map[[sha256.Size]byte]*running
	// remembered are the last good configurations of agents without a feed, by agent.
	remembered map[int64]*configuration
}

// running is a feed, its users, and how to end it.
type running struct {
	feed   *feed
	users  int
	cancel context.CancelFunc
	ended  chan struct{}
}

// NewServer returns a Server; register it with a gRPC server.
func NewServer(cfg ServerConfig, with Collaborators) *Server {
	return &Server{
		cfg:        cfg,
		with:       with,
		feeds:      make(map[[sha256.Size]byte]*running),
		remembered: make(map[int64]*configuration),
	}
}

// Watch implements agentrpc.AgentConfigurationServer.
func (s *Server) Watch(req *agentrpc.WatchRequest, stream grpc.ServerStreamingServer[agentrpc.WatchResponse]) error {
	ctx := stream.Context()
	token, err := grpctool.BearerToken(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	agent, err := s.with.Access.Agent(ctx, token)
	if err != nil {
		return err
	}
	path, err := ConfigurationPath(agent.AgentName)
	if err != nil {
		return status.Errorf(codes.Internal, "RoR: %v", err)
	}
	// The agent is to know that it was let in, however long its configuration takes.
	if err := stream.SendHeader(nil); err != nil {
		return err //nolint:wrapcheck // it is the RPC's status
	}
	remove := s.with.Registry.add(agent, req.GetAgentMeta())
	defer remove()
	s.log(agent, req).Info("Agent connected", zap.String("version", clip(req.GetAgentMeta().GetVersion())), zap.String("pod", clip(req.GetAgentMeta().GetPodName())))
	err = s.follow(ctx, token, agent, path, req.GetCommitId(), stream)
	s.log(agent, req).Info("Agent disconnected", zap.String("reason", reasonOf(ctx, err)))
	return err
}

// log of a stream. It is made when it is used: there are many streams, and a logger takes a
// kilobyte.
func (s *Server) log(agent gitlabapi.AgentInfo, req *agentrpc.WatchRequest) *zap.Logger {
	return s.with.Log.With(logging.AgentID(agent.AgentID), zap.String("agent", agent.AgentName),
		zap.Int64("instance_id", req.GetAgentMeta().GetInstanceId()))
}

// reasonOf says why a stream has ended.
func reasonOf(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return "its connection has ended"
	}
	return status.Convert(err).Message()
}

// follow hands the agent its configurations until it may have no more.
func (s *Server) follow(ctx context.Context, token string, agent gitlabapi.AgentInfo, path, held string, stream grpc.ServerStreamingServer[agentrpc.WatchResponse]) error {
	shared, err := s.join(ctx, agent, path)
	if err != nil {
		return err
	}
	defer s.leave(shared)
	shared.feed.hint(held)

	ctx, end := context.WithCancel(ctx)
	guard := s.with.Access.NewGuard(token, agent)
	defer guard.End()
	defer end()
	return send(ctx, agent, shared.feed, guard, stream)
}

// send hands the agent each configuration that comes into force. There are many agents:
// all of it is done in gRPC's own goroutine.
func send(ctx context.Context, agent gitlabapi.AgentInfo, f *feed, guard *Guard, stream grpc.ServerStreamingServer[agentrpc.WatchResponse]) error {
	for {
		cfg, changed := f.get()
		if cfg != nil {
			err := stream.Send(&agentrpc.WatchResponse{
				AgentId:       agent.AgentID,
				AgentName:     agent.AgentName,
				ProjectId:     agent.ProjectID,
				Configuration: cfg.full,
				CommitId:      cfg.commit,
			})
			if err != nil {
				return err //nolint:wrapcheck // it is the RPC's status
			}
		}
		if err := guard.Wait(ctx, changed); err != nil {
			return err
		}
	}
}

// join takes part in the agent's feed and starts it if need be. Agents whose project has
// moved have another feed, so that the old one's followers can end in their own time.
func (s *Server) join(ctx context.Context, agent gitlabapi.AgentInfo, path string) (*running, error) {
	key, err := keyOf(agent)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared := s.feeds[key]; shared != nil {
		shared.users++
		return shared, nil
	}
	f := &feed{
		cfg:      s.cfg,
		agent:    agent,
		repo:     gitrepo.Repository{Server: agent.GitalyInfo, Repository: agent.GitalyRepository},
		path:     path,
		files:    s.with.Files,
		rails:    s.with.Reporter,
		status:   s.with.Status,
		log:      s.with.Log,
		lastGood: s.remembered[agent.AgentID],
		changed:  make(chan struct{}),
	}
	f.revisions, f.reports = newNewest(s.cfg.Clock, f.load), newNewest(s.cfg.Clock, f.report)
	delete(s.remembered, agent.AgentID)
	// The feed lives as long as its users, whichever of them comes first.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	shared := &running{feed: f, users: 1, cancel: cancel, ended: make(chan struct{})}
	s.feeds[key] = shared
	s.with.Status.Arrived(agent)
	go func() {
		defer close(shared.ended)
		if err := f.run(ctx); err != nil && ctx.Err() == nil {
			f.log.Error("Following the agent's configuration ended", logging.AgentID(agent.AgentID), zap.Error(err))
		}
	}()
	return shared, nil
}

// leave ends the feed, and waits for that, when its last user leaves.
func (s *Server) leave(shared *running) {
	s.mu.Lock()
	shared.users--
	last := shared.users == 0
	if last {
		key, err := keyOf(shared.feed.agent)
		if err == nil { // as it was in join
			delete(s.feeds, key)
		}
		shared.cancel()
		s.remember(shared.feed)
	}
	s.mu.Unlock()
	if last {
		<-shared.ended
		s.with.Status.Left(shared.feed.agent)
	}
}

// remember keeps the last good configuration for the agent's return.
func (s *Server) remember(f *feed) {
	cfg, _ := f.get()
	if cfg == nil {
		cfg = f.lastGood
	}
	if cfg == nil {
		return
	}
	if len(s.remembered) >= maxRemembered {
		for id := range s.remembered { // any one
			delete(s.remembered, id)
			break
		}
	}
	s.remembered[f.agent.AgentID] = cfg
}

// keyOf is the same for all streams that may share a feed.
func keyOf(agent gitlabapi.AgentInfo) ([sha256.Size]byte, error) {
	encoded, err := json.Marshal(agent)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("encode what RoR said of agent %d: %w", agent.AgentID, err)
	}
	return sha256.Sum256(encoded), nil
}
