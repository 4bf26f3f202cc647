package rest

import (
	"net/http"
	"time"

	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

type userJSON struct {
	ID        int64  `json:"id"`
	Username  string `json:"username"`
	Name      string `json:"name"`
	State     string `json:"state"`
	CreatedAt string `json:"created_at"`
	IsAdmin   bool   `json:"is_admin"`
}

// timestamp is GitLab's way to write a time.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// optionalTimestamp is null for the zero time.
func optionalTimestamp(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := timestamp(t)
	return &s
}

func toUser(u registry.User) userJSON {
	return userJSON{ID: u.ID, Username: u.Username, Name: u.Name, State: "active", CreatedAt: timestamp(u.CreatedAt), IsAdmin: u.Admin}
}

func (s *Server) getUser(w http.ResponseWriter, c call) error {
	jsonhttp.Write(w, http.StatusOK, toUser(c.user))
	return nil
}

func (s *Server) createUser(w http.ResponseWriter, c call) error {
	var body struct {
		Username string `json:"username"`
		Name     string `json:"name"`
		Password string `json:"password"`
		Admin    bool   `json:"admin"`
	}
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	u, err := s.registry.CreateUser(c.Context(), registry.NewUser{
		Username: body.Username, Name: body.Name, Password: body.Password, Admin: body.Admin,
	})
	if err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusCreated, toUser(u))
	return nil
}

type personalTokenJSON struct {
	ID         int64    `json:"id"`
	Name       string   `json:"name"`
	Revoked    bool     `json:"revoked"`
	CreatedAt  string   `json:"created_at"`
	Scopes     []string `json:"scopes"`
	UserID     int64    `json:"user_id"`
	LastUsedAt *string  `json:"last_used_at"`
	Active     bool     `json:"active"`
	ExpiresAt  *string  `json:"expires_at"`
	// Token is there once: in the answer that creates it.
	Token string `json:"token,omitempty"`
}

func toPersonalToken(t registry.PersonalToken) personalTokenJSON {
	j := personalTokenJSON{
		ID: t.ID, Name: t.Name, CreatedAt: timestamp(t.CreatedAt), Scopes: t.Scopes, UserID: t.UserID,
		LastUsedAt: optionalTimestamp(t.LastUsedAt), Active: true,
	}
	if !t.ExpiresAt.IsZero() {
		date := t.ExpiresAt.Format(time.DateOnly)
		j.ExpiresAt = &date
	}
	return j
}

// getOwnToken shows the token that the request came with: good, or it would not be here.
func (s *Server) getOwnToken(w http.ResponseWriter, c call) error {
	jsonhttp.Write(w, http.StatusOK, toPersonalToken(c.token))
	return nil
}

// revokeOwnToken ends the token that the request came with.
func (s *Server) revokeOwnToken(w http.ResponseWriter, c call) error {
	if err := s.registry.RevokePersonalToken(c.Context(), c.token.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// newTokenBody is what a new personal access token is asked for with.
type newTokenBody struct {
	Name      string   `json:"name"`
	Scopes    []string `json:"scopes"`
	ExpiresAt string   `json:"expires_at"`
}

// createPersonalToken makes a token for any user.
func (s *Server) createPersonalToken(w http.ResponseWriter, c call) error {
	id, err := c.number("id")
	if err != nil {
		return err
	}
	var body newTokenBody
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	if _, err := s.registry.User(c.Context(), id); err != nil {
		return jsonhttp.NotFound("User")
	}
	return s.writeNewToken(w, c, id, body)
}

// createOwnToken makes a token for the caller that is good for kas's Kubernetes API proxy
// and nothing else, and ends with the day unless told otherwise.
func (s *Server) createOwnToken(w http.ResponseWriter, c call) error {
	var body newTokenBody
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	if len(body.Scopes) != 1 || body.Scopes[0] != registry.ScopeK8sProxy {
		return jsonhttp.BadRequest("scopes does not have a valid value: only %s", registry.ScopeK8sProxy)
	}
	if body.ExpiresAt == "" {
		body.ExpiresAt = s.cfg.Clock.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	}
	return s.writeNewToken(w, c, c.user.ID, body)
}

func (s *Server) writeNewToken(w http.ResponseWriter, c call, user int64, body newTokenBody) error {
	n := registry.NewPersonalToken{UserID: user, Name: body.Name, Scopes: body.Scopes}
	if body.ExpiresAt != "" {
		var err error
		if n.ExpiresAt, err = time.Parse(time.DateOnly, body.ExpiresAt); err != nil {
			return jsonhttp.BadRequest("expires_at is invalid: want YYYY-MM-DD")
		}
	}
	t, token, err := s.registry.CreatePersonalToken(c.Context(), n)
	if err != nil {
		return err
	}
	answer := toPersonalToken(t)
	answer.Token = token
	jsonhttp.Write(w, http.StatusCreated, answer)
	return nil
}
