package agents

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/answers"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

const (
	// StaleFor is how long after RoR last confirmed it an answer is still given while RoR
	// cannot be asked.
	StaleFor = time.Hour
	// maxAnswers bounds how many answers of one sort are remembered.
	maxAnswers = 50_000
)

// Rails answers who an agent is and what it may read. Its errors wrap gitlabapi's
// sentinels, and each call ends by itself in bounded time.
type Rails interface {
	AgentInfo(ctx context.Context, token string) (gitlabapi.AgentInfo, error)
	ProjectInfo(ctx context.Context, token, id string) (gitlabapi.ProjectInfo, error)
}

// AccessConfig is how long RoR's answers are believed.
type AccessConfig struct {
	// InfoTTL and InfoErrorTTL are for answers and refusals about agents.
	InfoTTL, InfoErrorTTL time.Duration
	// ProjectTTL and ProjectErrorTTL are for answers and refusals about projects.
	ProjectTTL, ProjectErrorTTL time.Duration
	Clock                       clock.WithTicker
}

// Access says who an agent is and what it may read. The errors of its methods are gRPC
// statuses, in words for the agent's operator: UNAUTHENTICATED, PERMISSION_DENIED,
// NOT_FOUND (projects only), or UNAVAILABLE where RoR cannot be asked; or ctx's error.
type Access struct {
	rails    Rails
	log      *zap.Logger
	clock    clock.WithTicker
	agents   *answers.Answers[gitlabapi.AgentInfo]
	projects *answers.Answers[gitlabapi.ProjectInfo]
	bells    bells
	away     atomic.Bool // RoR could not be asked the last time
}

// NewAccess returns an Access that asks rails.
func NewAccess(cfg AccessConfig, rails Rails, log *zap.Logger, registerer prometheus.Registerer) (*Access, error) {
	asked := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kas_access_answers_total",
		Help: "Questions about agents and projects, by how they were answered: hit (remembered), asked (of RoR), stale (RoR is away).",
	}, []string{"about", "how"})
	if err := registerer.Register(asked); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	remembering := func(about string, ttl, errorTTL time.Duration) answers.Config {
		return answers.Config{
			Clock: cfg.Clock, TTL: ttl, ErrorTTL: errorTTL, StaleFor: StaleFor, Max: maxAnswers,
			Told: func(how answers.How) { asked.WithLabelValues(about, string(how)).Inc() },
		}
	}
	return &Access{
		rails:    rails,
		log:      log,
		clock:    cfg.Clock,
		agents:   answers.New[gitlabapi.AgentInfo](remembering("agent", cfg.InfoTTL, cfg.InfoErrorTTL)),
		projects: answers.New[gitlabapi.ProjectInfo](remembering("project", cfg.ProjectTTL, cfg.ProjectErrorTTL)),
	}, nil
}

// Agent returns who bears the token.
func (a *Access) Agent(ctx context.Context, token string) (gitlabapi.AgentInfo, error) {
	info, _, err := a.agent(ctx, token)
	return info, err
}

func (a *Access) agent(ctx context.Context, token string) (gitlabapi.AgentInfo, time.Time, error) {
	info, until, _, err := a.agents.Get(ctx, sha256.Sum256([]byte(token)), func(ctx context.Context) (gitlabapi.AgentInfo, error) {
		info, err := a.rails.AgentInfo(ctx, token)
		a.watchRails(err)
		return info, err
	})
	return info, until, explain(err, "agent token")
}

// Project returns where a project lives, for the bearer of the token: id is its full path
// or its number.
func (a *Access) Project(ctx context.Context, token, id string) (gitlabapi.ProjectInfo, error) {
	key := sha256.Sum256([]byte(token + "\x00" + id))
	info, _, _, err := a.projects.Get(ctx, key, func(ctx context.Context) (gitlabapi.ProjectInfo, error) {
		info, err := a.rails.ProjectInfo(ctx, token, id)
		a.watchRails(err)
		return info, err
	})
	return info, explain(err, fmt.Sprintf("project %q", id))
}

// Recheck has RoR asked anew about the tokens of an agent: one may have been revoked.
func (a *Access) Recheck(agentID int64) {
	a.agents.Doubt(func(info gitlabapi.AgentInfo) bool { return info.AgentID == agentID })
	a.bells.ring(agentID)
}

// Rechecked returns a channel that is closed at the agent's next Recheck.
func (a *Access) Rechecked(agentID int64) <-chan struct{} { return a.bells.of(agentID) }

// watchRails tells the log when RoR goes away and comes back, once each.
func (a *Access) watchRails(err error) {
	trouble := err != nil && !gitlabapi.IsRefusal(err)
	if a.away.Swap(trouble) == trouble {
		return
	}
	if trouble {
		a.log.Warn("RoR cannot be asked about agents; those it vouched for lately are still served", zap.Error(err))
	} else {
		a.log.Info("RoR answers again")
	}
}

// explain makes a gRPC status of what RoR said about a thing. RoR's own words stay in
// kas's log: they may name addresses that are none of the agent's business.
func explain(err error, thing string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, gitlabapi.ErrUnavailable):
		return status.FromContextError(err).Err()
	case errors.Is(err, gitlabapi.ErrUnauthorized):
		return status.Error(codes.Unauthenticated, "the agent token is unknown or revoked: create a new one and put it into agentk's token file")
	case errors.Is(err, gitlabapi.ErrForbidden):
		return status.Errorf(codes.PermissionDenied, "%s: RoR does not allow it", thing)
	case errors.Is(err, gitlabapi.ErrNotFound), errors.Is(err, gitlabapi.ErrRejected):
		return status.Errorf(codes.NotFound, "%s: there is no such thing, or the agent may not read it", thing)
	default:
		return status.Errorf(codes.Unavailable, "%s: RoR cannot be asked about it now", thing)
	}
}
