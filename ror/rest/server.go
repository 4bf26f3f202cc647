package rest

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/hosting"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/overview"
	"github.com/kas-agentk/kas/ror/registry"
)

// maxBody is the largest body of a request, in bytes.
const maxBody = 1 << 20

// Projects makes projects.
type Projects interface {
	Create(context.Context, registry.User, registry.NewProject) (registry.Project, error)
}

// Overview tells what is known of agents.
type Overview interface {
	Describe(context.Context, []registry.Agent) (overview.Agents, error)
}

// Control carries commands to clusters.
type Control interface {
	Do(context.Context, control.Command) error
	Diff(context.Context, control.Target, control.Ref) (*railsrpc.DiffResponse, error)
}

// Config is what the server needs to know.
type Config struct {
	// ExternalURL of RoR, without a slash at the end.
	ExternalURL string
	// KasAgentAddress is what agentk dials, KasProxyURL where kas's Kubernetes API proxy
	// begins; empty: not known.
	KasAgentAddress, KasProxyURL string
	// KasProxyCA is who vouches for the proxy's certificate, in PEM; empty: people's systems
	// know.
	KasProxyCA string
	// IsUnavailable tells whether an error of Projects means that Gitaly is away.
	IsUnavailable func(error) bool
	// Clock tells the date. Default: the real one.
	Clock clock.PassiveClock
	Log   *zap.Logger
}

// Server serves the public REST API.
type Server struct {
	cfg      Config
	registry *registry.Registry
	projects Projects
	overview Overview
	control  Control
	clusters Clusters
}

// NewServer returns a server.
func NewServer(cfg Config, r *registry.Registry, projects Projects, o Overview, c Control, k Clusters) *Server {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Server{cfg: cfg, registry: r, projects: projects, overview: o, control: c, clusters: k}
}

// call is one request by a caller who is known.
type call struct {
	*http.Request
	user  registry.User
	token registry.PersonalToken
}

// handler answers a call, or says why not.
type handler func(http.ResponseWriter, call) error

// Register adds the endpoints.
func (s *Server) Register(mux *http.ServeMux) {
	for pattern, h := range map[string]handler{
		"GET /metadata": s.metadata,
		"GET /version":  s.metadata,

		"GET /user":   s.getUser,
		"POST /users": s.adminOnly(s.createUser),
		"POST /users/{id}/personal_access_tokens": s.adminOnly(s.createPersonalToken),
		"POST /user/personal_access_tokens":       s.createOwnToken,

		"GET /projects":               s.listProjects,
		"POST /projects":              s.createProject,
		"GET /projects/{id}":          s.inProject(registry.Access.See, s.getProject),
		"GET /projects/{id}/members":  s.inProject(registry.Access.ReadAgents, s.listMembers),
		"POST /projects/{id}/members": s.inProject(registry.Access.Administer, s.setMember),

		// Jobs, which a GitLab has a CI for, are started here by who may push.
		"GET /projects/{id}/jobs":               s.inProject(registry.Access.ReadAgents, s.listJobs),
		"POST /projects/{id}/jobs":              s.inProject(registry.Access.Push, s.startJob),
		"POST /projects/{id}/jobs/{job}/finish": s.inProject(registry.Access.Push, s.finishJob),

		"GET /cluster_agents":                          s.listAllAgents,
		"GET /projects/{id}/cluster_agents":            s.inProject(registry.Access.ReadAgents, s.listAgents),
		"POST /projects/{id}/cluster_agents":           s.inProject(registry.Access.Administer, s.createAgent),
		"GET /projects/{id}/cluster_agents/{agent}":    s.ofAgent(registry.Access.ReadAgents, s.getAgent),
		"DELETE /projects/{id}/cluster_agents/{agent}": s.ofAgent(registry.Access.Administer, s.deleteAgent),

		"GET /projects/{id}/cluster_agents/{agent}/tokens":            s.ofAgent(registry.Access.ReadAgents, s.listTokens),
		"POST /projects/{id}/cluster_agents/{agent}/tokens":           s.ofAgent(registry.Access.Administer, s.createToken),
		"GET /projects/{id}/cluster_agents/{agent}/tokens/{token}":    s.ofAgent(registry.Access.ReadAgents, s.getToken),
		"DELETE /projects/{id}/cluster_agents/{agent}/tokens/{token}": s.ofAgent(registry.Access.Administer, s.revokeToken),

		"GET /projects/{id}/cluster_agents/{agent}/sync_status": s.ofAgent(registry.Access.ReadAgents, s.syncStatus),
		// A comparison shows what is in the cluster, of whatever a branch may name.
		"POST /projects/{id}/cluster_agents/{agent}/sync_status/diff":          s.ofAgent(registry.Access.Administer, s.diff),
		"POST /projects/{id}/cluster_agents/{agent}/sync_status/sync":          s.ofAgent(registry.Access.Administer, s.command(control.Sync)),
		"POST /projects/{id}/cluster_agents/{agent}/sync_status/suspend":       s.ofAgent(registry.Access.Administer, s.command(control.Suspend)),
		"POST /projects/{id}/cluster_agents/{agent}/sync_status/resume":        s.ofAgent(registry.Access.Administer, s.command(control.Resume)),
		"POST /projects/{id}/cluster_agents/{agent}/sync_status/approve_prune": s.ofAgent(registry.Access.Administer, s.command(control.ApprovePrune)),

		"GET /projects/{id}/cluster_agents/{agent}/doctor": s.ofAgent(registry.Access.ReadAgents, s.doctor),

		"GET /cluster_state/{resource}":                                             s.listFleet,
		"GET /projects/{id}/cluster_agents/{agent}/cluster_state/{resource}":        s.ofAgent(registry.Access.ReadAgents, s.listObjects),
		"GET /projects/{id}/cluster_agents/{agent}/cluster_state/{resource}/{name}": s.ofAgent(registry.Access.ReadAgents, s.getObject),
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.Handle(method+" /api/v4"+path, s.serve(scoped(h)))
	}
	// Whatever a token is for, it may look at itself, and end itself.
	mux.Handle("GET /api/v4/personal_access_tokens/self", s.serve(s.getOwnToken))
	mux.Handle("DELETE /api/v4/personal_access_tokens/self", s.serve(s.revokeOwnToken))
	mux.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) { jsonhttp.WriteError(w, jsonhttp.ErrNotFound) })
}

// IsStream says whether a request asks for an answer that goes on and on.
func IsStream(r *http.Request) bool {
	if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, "/api/v4/") || !strings.Contains(r.URL.Path, "/cluster_state/") {
		return false
	}
	watch, err := isWatch(r.URL.Query())
	return watch && err == nil
}

// serve finds out who calls, and turns errors into answers.
func (s *Server) serve(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := s.authenticate(r)
		if err == nil {
			err = h(w, c)
		}
		if err == nil {
			return
		}
		var commanded *control.Error
		var asked *kasapi.Error
		switch {
		case errors.As(err, &commanded): // control has it in its record
			jsonhttp.WriteError(w, toAgentAnswer(commanded.Status, commanded.Message))
			return
		case errors.As(err, &asked): // of a cluster, which says what is wrong there
			jsonhttp.WriteError(w, toAgentAnswer(asked.HTTPStatus(), asked.Message))
			return
		}
		answer := s.toAnswer(err)
		if level, ok := logLevel(answer.Status); ok && r.Context().Err() == nil {
			s.cfg.Log.Log(level, "API request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
		}
		jsonhttp.WriteError(w, answer)
	})
}

// logLevel of a failure; none for what is the caller's own.
func logLevel(status int) (zapcore.Level, bool) {
	switch {
	case status == http.StatusServiceUnavailable: // a neighbour's fault
		return zap.WarnLevel, true
	case status >= http.StatusInternalServerError:
		return zap.ErrorLevel, true
	}
	return 0, false
}

func (s *Server) authenticate(r *http.Request) (call, error) {
	token := r.Header.Get("PRIVATE-TOKEN")
	if token == "" {
		scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if strings.EqualFold(scheme, "Bearer") {
			token = bearer
		}
	}
	if token == "" {
		return call{}, jsonhttp.ErrUnauthorized
	}
	user, known, err := s.registry.UserByToken(r.Context(), token)
	return call{Request: r, user: user, token: known}, err
}

// scoped lets only tokens through that are for the API.
func scoped(h handler) handler {
	return func(w http.ResponseWriter, c call) error {
		reading := c.Method == http.MethodGet || c.Method == http.MethodHead
		if !c.token.Allows(registry.ScopeAPI) && (!reading || !c.token.Allows(registry.ScopeReadAPI)) {
			return &jsonhttp.Error{Status: http.StatusForbidden, Message: "403 Forbidden - the token lacks the scope api"}
		}
		return h(w, c)
	}
}

func (s *Server) toAnswer(err error) *jsonhttp.Error {
	switch {
	case errors.Is(err, hosting.ErrForbidden):
		return &jsonhttp.Error{Status: http.StatusForbidden, Message: "403 Forbidden - " + hosting.ErrForbidden.Error()}
	case errors.Is(err, registry.ErrConflict):
		return &jsonhttp.Error{Status: http.StatusConflict, Message: "409 Conflict - has already been taken"}
	case s.cfg.IsUnavailable(err):
		return &jsonhttp.Error{Status: http.StatusServiceUnavailable, Message: "503 Service Unavailable - the Git storage (Gitaly) does not answer, try again soon"}
	}
	return jsonhttp.ToAnswer(err)
}

func (s *Server) adminOnly(h handler) handler {
	return func(w http.ResponseWriter, c call) error {
		if !c.user.Admin {
			return jsonhttp.ErrForbidden
		}
		return h(w, c)
	}
}

// inProject finds the project that the path names and asks whether the caller may.
func (s *Server) inProject(may func(registry.Access) bool, h func(http.ResponseWriter, call, registry.Project) error) handler {
	return func(w http.ResponseWriter, c call) error {
		p, err := s.registry.FindProject(c.Context(), c.PathValue("id"))
		if errors.Is(err, registry.ErrNotFound) {
			return jsonhttp.NotFound("Project")
		}
		if err != nil {
			return err
		}
		access, err := s.registry.Access(c.Context(), &c.user, p)
		switch {
		case err != nil:
			return err
		case !access.See():
			return jsonhttp.NotFound("Project")
		case !may(access):
			return jsonhttp.ErrForbidden
		}
		return h(w, c, p)
	}
}

// ofAgent is inProject for an agent of the project.
func (s *Server) ofAgent(may func(registry.Access) bool, h func(http.ResponseWriter, call, registry.Agent) error) handler {
	return s.inProject(may, func(w http.ResponseWriter, c call, p registry.Project) error {
		id, err := c.number("agent")
		if err != nil {
			return err
		}
		a, err := s.registry.Agent(c.Context(), id)
		if errors.Is(err, registry.ErrNotFound) || (err == nil && a.Project.ID != p.ID) {
			return jsonhttp.NotFound("Agent")
		}
		if err != nil {
			return err
		}
		return h(w, c, a)
	})
}

// writeList answers with a list, each item as the API shows it.
func writeList[T, J any](w http.ResponseWriter, items []T, show func(T) J) {
	list := make([]J, 0, len(items))
	for _, item := range items {
		list = append(list, show(item))
	}
	jsonhttp.Write(w, http.StatusOK, list)
}

// number returns a part of the path that must be a number.
func (c call) number(name string) (int64, error) {
	n, err := strconv.ParseInt(c.PathValue(name), 10, 64)
	if err != nil {
		return 0, jsonhttp.BadRequest("%s is invalid: want a number", name)
	}
	return n, nil
}
