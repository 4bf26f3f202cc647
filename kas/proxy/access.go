package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/answers"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

const (
	// maxAnswers bounds how many answers of one sort are remembered.
	maxAnswers = 10_000
	// maxAsking bounds how many questions of one sort RoR has at once, and askingWait how
	// long a question waits until it is one of them: strangers who show thousands of tokens
	// do not take RoR away from agents.
	maxAsking  = 16
	askingWait = 5 * time.Second
)

// roRAway is when clients should try again that came while RoR was away.
const roRAway = 2 * time.Second

// grant is who may reach a cluster, and as whom.
type grant struct {
	agentID int64
	// who makes the request, for rate limits: a hash.
	who string
	// username of a person, or of the one whose job it is, for the log.
	username string
	userID   int64
	// impersonation; nil: the agent asks as itself.
	impersonation *agentrpc.Impersonation
}

// access asks RoR what credentials are worth.
type access struct {
	ror     RoR
	metrics *metrics
	users   *answers.Answers[gitlabapi.ProxyUser]
	jobs    *answers.Answers[gitlabapi.AllowedAgents]
}

func newAccess(cfg Config, ror RoR, m *metrics) *access {
	remembering := answers.Config{Clock: cfg.Clock, TTL: cfg.TTL, ErrorTTL: cfg.ErrorTTL, Max: maxAnswers, MaxAsking: maxAsking, AskingWait: askingWait}
	return &access{
		ror: ror, metrics: m,
		users: answers.New[gitlabapi.ProxyUser](remembering),
		jobs:  answers.New[gitlabapi.AllowedAgents](remembering),
	}
}

// authorize says who shows a credential, or refuses.
func (a *access) authorize(ctx context.Context, c credential) (grant, error) {
	if c.kind == byJob {
		return a.job(ctx, c)
	}
	return a.user(ctx, c)
}

func (a *access) user(ctx context.Context, c credential) (grant, error) {
	request := gitlabapi.ProxyUserRequest{AgentID: c.agentID, AccessType: gitlabapi.AccessType(c.kind), AccessKey: c.secret, CSRFToken: c.csrf}
	user, _, hit, err := a.users.Get(ctx, questionOf(c), func(ctx context.Context) (gitlabapi.ProxyUser, error) {
		return a.ror.AuthorizeProxyUser(ctx, request)
	})
	a.count(c.kind, hit, err)
	if err != nil {
		return grant{}, refusedBy(err, c)
	}
	if user.Agent.ID != c.agentID {
		return grant{}, refuse(http.StatusBadGateway, "RoR was asked about agent %d and answered about agent %d", c.agentID, user.Agent.ID)
	}
	as, err := userImpersonation(user, c.kind)
	if err != nil {
		return grant{}, err
	}
	return grant{
		agentID: c.agentID, who: hashOf("user", user.User.ID),
		username: user.User.Username, userID: user.User.ID, impersonation: as,
	}, nil
}

func (a *access) job(ctx context.Context, c credential) (grant, error) {
	allowed, _, hit, err := a.jobs.Get(ctx, questionOf(c), func(ctx context.Context) (gitlabapi.AllowedAgents, error) {
		return a.ror.AllowedAgents(ctx, c.secret)
	})
	a.count(c.kind, hit, err)
	if err != nil {
		return grant{}, refusedBy(err, c)
	}
	i := slices.IndexFunc(allowed.AllowedAgents, func(one gitlabapi.AllowedAgent) bool { return one.ID == c.agentID })
	if i < 0 {
		return grant{}, forbid("this CI job may not use agent %d: ci_access in the agent's configuration names the projects and groups whose jobs may", c.agentID)
	}
	as, err := jobImpersonation(allowed, allowed.AllowedAgents[i])
	if err != nil {
		return grant{}, err
	}
	return grant{
		agentID: c.agentID, who: hashOf("job", allowed.Job.ID),
		username: allowed.User.Username, userID: allowed.User.ID, impersonation: as,
	}, nil
}

// count counts how a question was answered.
func (a *access) count(by kind, hit bool, err error) {
	how := "asked"
	switch {
	case hit:
		how = "hit"
	case err != nil && !gitlabapi.IsRefusal(err):
		how = "failed"
	}
	a.metrics.authorizations.WithLabelValues(string(by), how).Inc()
}

// refusedBy says what an error of RoR means for who asked.
func refusedBy(err error, c credential) error {
	what := map[kind]string{
		byToken: "the personal access token", bySession: "the session", byJob: "the CI job token",
	}[c.kind]
	access := "user_access"
	if c.kind == byJob {
		access = "ci_access"
	}
	switch {
	case errors.Is(err, gitlabapi.ErrUnauthorized):
		return refuse(http.StatusUnauthorized, "RoR does not accept %s: it is unknown, was revoked, or is over", what)
	case errors.Is(err, gitlabapi.ErrForbidden), errors.Is(err, gitlabapi.ErrNotFound):
		return forbid(
			"%s gives no access to agent %d, or there is no such agent: %s in the agent's configuration says who may use it, and a personal access token needs the scope k8s_proxy", what, c.agentID, access)
	case errors.Is(err, gitlabapi.ErrRejected):
		return refuse(http.StatusBadGateway, "RoR could make nothing of the question about %s", what)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	default:
		return refuseFor(roRAway, http.StatusServiceUnavailable, "RoR cannot be asked about %s at the moment: try again", what)
	}
}

// questionOf is what RoR is asked about a credential. Its answer about a job is about all
// agents.
func questionOf(c credential) answers.Question {
	h := sha256.New()
	agentID := c.agentID
	if c.kind == byJob {
		agentID = 0
	}
	for _, part := range []string{string(c.kind), c.secret, c.csrf} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		_, _ = h.Write(length[:]) // a hash takes all
		_, _ = h.Write([]byte(part))
	}
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], uint64(agentID))
	_, _ = h.Write(id[:])
	return answers.Question(h.Sum(nil))
}

// hashOf stands for a person or a job.
func hashOf(what string, id int64) string {
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], uint64(id))
	sum := sha256.Sum256(append([]byte(what+"/"), number[:]...))
	return hex.EncodeToString(sum[:16])
}
