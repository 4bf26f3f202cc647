package internalapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/kas-agentk/kas/internal/version"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

// allowedRequest is what the pre-receive hook asks, before a push takes effect.
type allowedRequest struct {
	Action       string `json:"action"`
	GLRepository string `json:"gl_repository"`
	Changes      string `json:"changes"`
	UserID       string `json:"user_id"`
	Username     string `json:"username"`
}

type allowedAnswer struct {
	Status           bool     `json:"status"`
	Message          string   `json:"message,omitempty"`
	GLRepository     string   `json:"gl_repository,omitempty"`
	GLProjectPath    string   `json:"gl_project_path,omitempty"`
	GLID             string   `json:"gl_id,omitempty"`
	GLUsername       string   `json:"gl_username,omitempty"`
	GitConfigOptions []string `json:"git_config_options"`
}

func refuse(w http.ResponseWriter, status int, reason string) error {
	jsonhttp.Write(w, status, allowedAnswer{Message: reason, GitConfigOptions: []string{}})
	return nil
}

func (s *Server) allowed(w http.ResponseWriter, r *http.Request) error {
	var req allowedRequest
	if err := jsonhttp.Read(w, r, maxBody, &req); err != nil {
		return err
	}
	p, err := s.registry.ProjectByGLRepository(r.Context(), req.GLRepository)
	if errors.Is(err, registry.ErrNotFound) {
		return refuse(w, http.StatusNotFound, "The project you were looking for could not be found.")
	}
	if err != nil {
		return err
	}
	user, err := s.pusher(r, req.UserID, req.Username)
	if errors.Is(err, registry.ErrNotFound) {
		return refuse(w, http.StatusUnauthorized, "You are not known to this server.")
	}
	if err != nil {
		return err
	}
	access, err := s.registry.Access(r.Context(), &user, p)
	if err != nil {
		return err
	}
	switch {
	case !access.See():
		return refuse(w, http.StatusNotFound, "The project you were looking for could not be found.")
	case req.Action == "git-receive-pack" && !access.Push():
		return refuse(w, http.StatusUnauthorized, "You are not allowed to push code to this project: ask its maintainer for the developer role.")
	case !access.ReadCode():
		return refuse(w, http.StatusUnauthorized, "You are not allowed to download code from this project.")
	}
	jsonhttp.Write(w, http.StatusOK, allowedAnswer{
		Status: true, GLRepository: p.GLRepository(), GLProjectPath: p.FullPath,
		GLID: glID(user), GLUsername: user.Username, GitConfigOptions: []string{},
	})
	return nil
}

const userPrefix = "user-"

// glID is how Gitaly's hooks name a user.
func glID(u registry.User) string { return userPrefix + strconv.FormatInt(u.ID, 10) }

func (s *Server) pusher(r *http.Request, id, username string) (registry.User, error) {
	if username != "" {
		return s.registry.UserByName(r.Context(), username)
	}
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return registry.User{}, fmt.Errorf("user %q: %w", id, registry.ErrNotFound)
	}
	return s.registry.User(r.Context(), n)
}

func (s *Server) preReceive(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		GLRepository string `json:"gl_repository"`
	}
	if err := jsonhttp.Read(w, r, maxBody, &req); err != nil {
		return err
	}
	if _, err := s.registry.ProjectByGLRepository(r.Context(), req.GLRepository); err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusOK, struct {
		Increased bool `json:"reference_counter_increased"`
	}{true})
	return nil
}

type postReceiveRequest struct {
	GLRepository string `json:"gl_repository"`
	Identifier   string `json:"identifier"`
	Changes      string `json:"changes"`
}

type postReceiveAnswer struct {
	Decreased bool      `json:"reference_counter_decreased"`
	Messages  []message `json:"messages"`
}

type message struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// postReceive is how RoR learns of a push, after it took effect.
func (s *Server) postReceive(w http.ResponseWriter, r *http.Request) error {
	var req postReceiveRequest
	if err := jsonhttp.Read(w, r, maxBody, &req); err != nil {
		return err
	}
	p, err := s.registry.ProjectByGLRepository(r.Context(), req.GLRepository)
	if err != nil {
		return err
	}
	push := registry.Push{Project: p, At: s.cfg.Clock.Now()}
	user, err := s.pusher(r, strings.TrimPrefix(req.Identifier, userPrefix), "")
	switch {
	case err == nil:
		push.UserID = user.ID
	case !errors.Is(err, registry.ErrNotFound):
		return err
	}
	if push.Changes, err = parseChanges(req.Changes); err != nil {
		return err
	}
	if err := s.registry.RecordPush(r.Context(), push); err != nil {
		return err
	}
	s.cfg.OnPush(r.Context(), push)
	s.cfg.Log.Info("push", zap.String("project", p.FullPath), zap.String("user", user.Username), zap.Int("refs", len(push.Changes)))
	jsonhttp.Write(w, http.StatusOK, postReceiveAnswer{
		Decreased: true,
		Messages:  []message{{Type: "basic", Message: "To see how this reaches your clusters, visit:\n  " + s.projectURL(p)}},
	})
	return nil
}

func (s *Server) projectURL(p registry.Project) string {
	return s.cfg.ExternalURL + (&url.URL{Path: "/" + p.FullPath}).EscapedPath()
}

// changeLine is "<old commit> <new commit> <ref>".
var changeLine = regexp.MustCompile(`^([0-9a-f]{40,64}) ([0-9a-f]{40,64}) (\S.*)$`)

func parseChanges(text string) ([]registry.RefChange, error) {
	var changes []registry.RefChange
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		m := changeLine.FindStringSubmatch(line)
		if m == nil {
			return nil, jsonhttp.BadRequest("changes is invalid: %q", line)
		}
		changes = append(changes, registry.RefChange{Old: m[1], New: m[2], Ref: m[3]})
	}
	return changes, nil
}

func (s *Server) check(w http.ResponseWriter, _ *http.Request) error {
	jsonhttp.Write(w, http.StatusOK, struct {
		APIVersion string `json:"api_version"`
		Version    string `json:"gitlab_version"`
		Revision   string `json:"gitlab_rev"`
		Redis      bool   `json:"redis"`
	}{"v4", version.Version, version.String(), true})
	return nil
}
