package rest

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

// configProjectJSON is a project as agents show it.
type configProjectJSON struct {
	ID                int64  `json:"id"`
	Description       string `json:"description"`
	Name              string `json:"name"`
	NameWithNamespace string `json:"name_with_namespace"`
	Path              string `json:"path"`
	PathWithNamespace string `json:"path_with_namespace"`
	CreatedAt         string `json:"created_at"`
}

func toConfigProject(p registry.Project) configProjectJSON {
	return configProjectJSON{
		ID: p.ID, Description: p.Description, Name: p.Name, Path: p.Path, PathWithNamespace: p.FullPath,
		NameWithNamespace: strings.ReplaceAll(p.Namespace(), "/", " / ") + " / " + p.Name,
		CreatedAt:         timestamp(p.CreatedAt),
	}
}

type projectJSON struct {
	configProjectJSON
	DefaultBranch string              `json:"default_branch"`
	HTTPURLToRepo string              `json:"http_url_to_repo"`
	WebURL        string              `json:"web_url"`
	Visibility    registry.Visibility `json:"visibility"`
	CreatorID     int64               `json:"creator_id"`
	Namespace     namespaceJSON       `json:"namespace"`
}

type namespaceJSON struct {
	ID       int64  `json:"id"`
	Path     string `json:"path"`
	Kind     string `json:"kind"`
	FullPath string `json:"full_path"`
}

func (s *Server) toProject(p registry.Project) projectJSON {
	web := s.cfg.ExternalURL + (&url.URL{Path: "/" + p.FullPath}).EscapedPath()
	kind := "group"
	if p.OwnerID != 0 {
		kind = "user"
	}
	return projectJSON{
		configProjectJSON: toConfigProject(p),
		DefaultBranch:     p.DefaultBranch,
		HTTPURLToRepo:     web + ".git",
		WebURL:            web,
		Visibility:        p.Visibility,
		CreatorID:         p.CreatorID,
		Namespace:         namespaceJSON{ID: p.NamespaceID, Path: path.Base(p.Namespace()), Kind: kind, FullPath: p.Namespace()},
	}
}

func (s *Server) listProjects(w http.ResponseWriter, c call) error {
	projects, err := s.registry.Projects(c.Context(), &c.user)
	if err != nil {
		return err
	}
	writeList(w, projects, s.toProject)
	return nil
}

func (s *Server) createProject(w http.ResponseWriter, c call) error {
	var body struct {
		Name          string              `json:"name"`
		Path          string              `json:"path"`
		NamespacePath string              `json:"namespace_path"`
		Description   string              `json:"description"`
		Visibility    registry.Visibility `json:"visibility"`
		DefaultBranch string              `json:"default_branch"`
	}
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	if body.Name == "" && body.Path == "" {
		return jsonhttp.BadRequest("name, path are missing, at least one parameter must be provided")
	}
	if body.Path == "" {
		body.Path = strings.ToLower(strings.ReplaceAll(body.Name, " ", "-"))
	}
	p, err := s.projects.Create(c.Context(), c.user, registry.NewProject{
		Namespace: body.NamespacePath, Path: body.Path, Name: body.Name, Description: body.Description,
		Visibility: body.Visibility, DefaultBranch: body.DefaultBranch,
	})
	if err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusCreated, s.toProject(p))
	return nil
}

func (s *Server) getProject(w http.ResponseWriter, _ call, p registry.Project) error {
	jsonhttp.Write(w, http.StatusOK, s.toProject(p))
	return nil
}

type memberJSON struct {
	ID          int64                `json:"id"`
	Username    string               `json:"username"`
	Name        string               `json:"name"`
	State       string               `json:"state"`
	AccessLevel registry.AccessLevel `json:"access_level"`
	CreatedAt   string               `json:"created_at"`
	ExpiresAt   *string              `json:"expires_at"`
}

func toMember(m registry.Member) memberJSON {
	return memberJSON{
		ID: m.User.ID, Username: m.User.Username, Name: m.User.Name, State: "active",
		AccessLevel: m.Level, CreatedAt: timestamp(m.CreatedAt),
	}
}

func (s *Server) listMembers(w http.ResponseWriter, c call, p registry.Project) error {
	members, err := s.registry.Members(c.Context(), p.ID)
	if err != nil {
		return err
	}
	writeList(w, members, toMember)
	return nil
}

// setMember makes a user a member, or changes the level of one who is.
func (s *Server) setMember(w http.ResponseWriter, c call, p registry.Project) error {
	var body struct {
		UserID      int64                `json:"user_id"`
		AccessLevel registry.AccessLevel `json:"access_level"`
	}
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	access, err := s.registry.Access(c.Context(), &c.user, p)
	if err != nil {
		return err
	}
	if body.AccessLevel > access.Level {
		return jsonhttp.ErrForbidden // nobody gives more than they have
	}
	m, err := s.registry.SetMember(c.Context(), p.ID, body.UserID, body.AccessLevel)
	if errors.Is(err, registry.ErrNotFound) {
		return jsonhttp.NotFound("User")
	}
	if err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusCreated, toMember(m))
	return nil
}
