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
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// maxRemembered bounds how many configurations of agents that are away are kept.
const maxRemembered = 20_000

// commitID is a full commit ID.
var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// Files follows refs and reads files; kas/gitaly says what each method does.
type Files interface {
	Follow(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref, period time.Duration,
		notify func(gitrepo.Revision)) (stop func())
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
func (s *Server) Watch(req *agentrpc.WatchRequest, stream grpc.ServerStreamingServer[agentrpc.WatchResponse]) (err error) {
	ctx, end := context.WithCancel(stream.Context())
	w := &watchStream{server: s, req: req, stream: stream}
	err = errFailed // unless something else is returned
	defer func() { w.close(end, err) }()
	if err := grpctool.Aside(func() error { return w.open(ctx) }); err != nil {
		return err
	}
	return w.serve(ctx)
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
	// The feed lives as long as its users, whichever of them comes first, and keeps nothing of
	// them.
	ctx, cancel := context.WithCancel(grpctool.Detached(ctx))
	shared := &running{feed: f, users: 1, cancel: cancel}
	s.feeds[key] = shared
	s.with.Status.Arrived(agent)
	f.open(ctx)
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
		shared.feed.close()
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
