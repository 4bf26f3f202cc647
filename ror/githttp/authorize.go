package githttp

import (
	"errors"
	"net/http"

	"github.com/kas-agentk/kas/ror/gitaly"
	"github.com/kas-agentk/kas/ror/registry"
)

// authorize returns the project and the user (zero: nobody) of a request that may go
// on; else a *refusal, or what is wrong with the registry.
func (s *Server) authorize(r *http.Request, q request) (registry.Project, registry.User, error) {
	wantMethod := http.MethodPost
	if q.refs {
		wantMethod = http.MethodGet
	}
	switch {
	case r.Method != wantMethod:
		return registry.Project{}, registry.User{}, errMethod
	case q.service != gitaly.UploadPack && q.service != gitaly.ReceivePack:
		return registry.Project{}, registry.User{}, errOldGit
	}
	user, err := s.authenticate(r, q.service)
	if err != nil {
		return registry.Project{}, registry.User{}, err
	}
	project, err := s.registry.FindProject(r.Context(), q.project)
	switch {
	case errors.Is(err, registry.ErrNotFound) && user == nil:
		return registry.Project{}, registry.User{}, errSignIn
	case errors.Is(err, registry.ErrNotFound):
		return registry.Project{}, registry.User{}, errNotFound
	case err != nil:
		return registry.Project{}, registry.User{}, err
	}
	access, err := s.registry.Access(r.Context(), user, project)
	if err != nil {
		return registry.Project{}, registry.User{}, err
	}
	if err := decide(q.service, access); err != nil {
		return registry.Project{}, registry.User{}, err
	}
	if user == nil {
		return project, registry.User{}, nil
	}
	return project, *user, nil
}

func decide(service gitaly.Service, access registry.Access) error {
	push := service == gitaly.ReceivePack
	switch {
	case !access.SignedIn() && (push || !access.ReadCode()):
		return errSignIn
	case !access.See():
		return errNotFound
	case push && !access.Push():
		return errNoPush
	case !access.ReadCode():
		return errNoPull
	}
	return nil
}

// authenticate returns who calls; nil: someone who gave no name.
func (s *Server) authenticate(r *http.Request, service gitaly.Service) (*registry.User, error) {
	username, password, ok := r.BasicAuth()
	if !ok || (username == "" && password == "") {
		return nil, nil
	}
	user, token, err := s.registry.UserByToken(r.Context(), password)
	if err == nil {
		allowed := token.Allows(registry.ScopeAPI, registry.ScopeWriteRepository) ||
			(service == gitaly.UploadPack && token.Allows(registry.ScopeReadRepository))
		if !allowed {
			return nil, errNoScope
		}
		return &user, nil
	}
	if !errors.Is(err, registry.ErrUnauthorized) {
		return nil, err
	}
	user, err = s.registry.UserByPassword(r.Context(), username, password)
	if errors.Is(err, registry.ErrUnauthorized) {
		return nil, errSignIn
	}
	if err != nil {
		return nil, err
	}
	return &user, nil
}
