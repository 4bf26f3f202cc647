package harness

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/kas-agentk/kas/sandbox/stack"
)

// User is somebody who is not an administrator.
type User struct {
	ID       int64
	Name     string
	Password string
	// Token is a personal access token.
	Token string
}

// NewUser makes one who has access to nothing yet.
func (f *Fixture) NewUser(name string) User {
	f.T.Helper()
	u := User{Name: f.Name + "-" + name, Password: "correct horse battery"}
	var made struct {
		ID int64 `json:"id"`
	}
	body := map[string]any{"username": u.Name, "name": u.Name, "email": u.Name + "@example.com", "password": u.Password}
	if err := f.Client().Do(f.T.Context(), http.MethodPost, "/users", body, &made); err != nil {
		f.T.Fatal(err)
	}
	var token struct {
		Token string `json:"token"`
	}
	u.ID = made.ID
	err := f.Client().Do(f.T.Context(), http.MethodPost, fmt.Sprintf("/users/%d/personal_access_tokens", made.ID),
		map[string]any{"name": "test", "scopes": []string{"api"}}, &token)
	if err != nil {
		f.T.Fatal(err)
	}
	u.Token = token.Token
	return u
}

// Access levels, as GitLab numbers them.
const (
	Guest     = 10
	Reporter  = 20
	Developer = 30
)

// SetAccess makes a user a member of a project, or changes the level of one who is.
func (f *Fixture) SetAccess(u User, project string, level int) {
	f.T.Helper()
	err := f.Client().Do(f.T.Context(), http.MethodPost, "/projects/"+url.PathEscape(project)+"/members",
		map[string]any{"user_id": u.ID, "access_level": level}, nil)
	if err != nil {
		f.T.Fatal(err)
	}
}

// UseAgentOf replaces the fixture's agent and configuration project by those of a
// user. What the agent follows stays.
func (f *Fixture) UseAgentOf(u User) {
	f.T.Helper()
	theirs := &stack.Client{URL: f.Stack.RorURL, Token: u.Token}
	project, err := theirs.CreateProject(f.T.Context(), u.Name, "agents", "private")
	if err != nil {
		f.T.Fatal(err)
	}
	f.Config = f.clone(project)
	if f.Agent, err = theirs.CreateAgent(f.T.Context(), project.Path, f.Name); err != nil {
		f.T.Fatal(err)
	}
	if f.Token, err = theirs.CreateToken(f.T.Context(), project.Path, f.Agent.ID, "test"); err != nil {
		f.T.Fatal(err)
	}
	f.Configure("default_namespace: " + f.Name)
}
