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
	Token      string   `json:"token"`
}

func (s *Server) createPersonalToken(w http.ResponseWriter, c call) error {
	id, err := c.number("id")
	if err != nil {
		return err
	}
	var body struct {
		Name      string   `json:"name"`
		Scopes    []string `json:"scopes"`
		ExpiresAt string   `json:"expires_at"`
	}
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	n := registry.NewPersonalToken{UserID: id, Name: body.Name, Scopes: body.Scopes}
	if body.ExpiresAt != "" {
		if n.ExpiresAt, err = time.Parse(time.DateOnly, body.ExpiresAt); err != nil {
			return jsonhttp.BadRequest("expires_at is invalid: want YYYY-MM-DD")
		}
	}
	if _, err := s.registry.User(c.Context(), id); err != nil {
		return jsonhttp.NotFound("User")
	}
	t, token, err := s.registry.CreatePersonalToken(c.Context(), n)
	if err != nil {
		return err
	}
	answer := personalTokenJSON{
		ID: t.ID, Name: t.Name, CreatedAt: timestamp(t.CreatedAt), Scopes: t.Scopes, UserID: t.UserID, Active: true, Token: token,
	}
	if !t.ExpiresAt.IsZero() {
		date := t.ExpiresAt.Format(time.DateOnly)
		answer.ExpiresAt = &date
	}
	jsonhttp.Write(w, http.StatusCreated, answer)
	return nil
}
