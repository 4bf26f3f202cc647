package internalapi

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

const (
	// maxBody is the largest body of an ordinary request, in bytes. A push of very
	// many refs names each.
	maxBody = 8 << 20
	// maxStatusBody is the largest body of sync_status, in bytes.
	maxStatusBody = 64 << 20

	shellSecretHeader = "Gitlab-Shared-Secret" //nolint:gosec // a header's name
)

// Repositories tells where repositories are.
type Repositories interface {
	Info() gitlabapi.GitalyInfo
	Repository(registry.Project) gitlabapi.GitalyRepository
}

// Config is what the server needs to know.
type Config struct {
	// KasSecret is shared with kas.
	KasSecret []byte
	// ShellSecret is what Gitaly's secret file holds.
	ShellSecret []byte
	// ExternalURL of RoR, without a slash at the end.
	ExternalURL string
	// OnPush hears of each push once it is recorded. It must return at once. May be nil.
	OnPush func(context.Context, registry.Push)
	// OnStatus hears of each project's status that kas tells, once it is stored. It must
	// return at once and change nothing. May be nil.
	OnStatus func(*syncstatus.ProjectStatus)
	// Clock tells the time. Default: the real one.
	Clock clock.PassiveClock
	Log   *zap.Logger
}

// Server serves the internal API.
type Server struct {
	cfg          Config
	registry     *registry.Registry
	repositories Repositories
}

// NewServer returns a server.
func NewServer(cfg Config, r *registry.Registry, repositories Repositories) *Server {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.OnPush == nil {
		cfg.OnPush = func(context.Context, registry.Push) {}
	}
	if cfg.OnStatus == nil {
		cfg.OnStatus = func(*syncstatus.ProjectStatus) {}
	}
	return &Server{cfg: cfg, registry: r, repositories: repositories}
}

// handler answers a request or says why not.
type handler func(http.ResponseWriter, *http.Request) error

// Register adds the endpoints.
func (s *Server) Register(mux *http.ServeMux) {
	for pattern, h := range map[string]handler{
		"GET " + gitlabapi.PathAgentInfo:           s.forAgent(s.agentInfo),
		"GET " + gitlabapi.PathProjectInfo:         s.forAgent(s.projectInfo),
		"POST " + gitlabapi.PathAgentConfiguration: s.agentConfiguration,
		"POST " + gitlabapi.PathUsageMetrics:       s.usageMetrics,
		"POST " + gitlabapi.PathAgentEvents:        s.agentEvents,
		"POST " + gitlabapi.PathAuthorizeProxyUser: s.authorizeProxyUser,
		"POST " + gitlabapi.PathSyncStatus:         s.syncStatus,
		gitlabapi.BasePath + "/":                   notFound,
	} {
		mux.Handle(pattern, s.serve(s.fromKas(h)))
	}
	for pattern, h := range map[string]handler{
		"POST /api/v4/internal/allowed":      s.allowed,
		"POST /api/v4/internal/pre_receive":  s.preReceive,
		"POST /api/v4/internal/post_receive": s.postReceive,
		"GET /api/v4/internal/check":         s.check,
		"/api/v4/internal/":                  notFound,
	} {
		mux.Handle(pattern, s.serve(s.fromShell(h)))
	}
	mux.Handle("GET "+gitlabapi.PathAllowedAgents, s.serve(s.allowedAgents))
}

func notFound(http.ResponseWriter, *http.Request) error { return jsonhttp.ErrNotFound }

// serve turns errors into answers.
func (s *Server) serve(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		answer := jsonhttp.ToAnswer(err)
		if answer.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
			s.cfg.Log.Error("internal API request failed", zap.String("path", r.URL.Path), zap.Error(err))
		}
		jsonhttp.WriteError(w, answer)
	})
}

// fromKas lets only kas through.
func (s *Server) fromKas(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		token := r.Header.Get(gitlabapi.RequestHeader)
		err := jwtauth.Verify(s.cfg.KasSecret, token, jwtauth.IssuerKas, jwtauth.AudienceGitlab, s.cfg.Clock.Now())
		if err != nil {
			s.cfg.Log.Warn("refused a call that kas should make: does it share this server's secret and clock?",
				zap.String("path", r.URL.Path), zap.Error(err))
			return jsonhttp.ErrUnauthorized
		}
		return h(w, r)
	}
}

// fromShell lets only Gitaly's hooks through.
func (s *Server) fromShell(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		secret, err := base64.StdEncoding.DecodeString(r.Header.Get(shellSecretHeader))
		if err != nil || !s.isShellSecret(string(secret)) {
			s.cfg.Log.Warn("refused a call that Gitaly's hooks should make: does Gitaly's [gitlab] secret_file hold this server's secret?",
				zap.String("path", r.URL.Path))
			return jsonhttp.ErrUnauthorized
		}
		return h(w, r)
	}
}

// isShellSecret takes the secret with and without the line end that an editor adds.
func (s *Server) isShellSecret(secret string) bool {
	got, want := strings.TrimSpace(secret), strings.TrimSpace(string(s.cfg.ShellSecret))
	return want != "" && subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1
}

// forAgent finds the agent that kas speaks for.
func (s *Server) forAgent(h func(http.ResponseWriter, *http.Request, registry.Agent) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
			return jsonhttp.ErrUnauthorized
		}
		agent, err := s.registry.AgentByToken(r.Context(), token)
		if err != nil {
			return err
		}
		return h(w, r, agent)
	}
}
