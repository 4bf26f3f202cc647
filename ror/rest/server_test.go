package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/types/known/timestamppb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/ror/clusters"
	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/fakekas"
	"github.com/kas-agentk/kas/ror/hosting"
	"github.com/kas-agentk/kas/ror/overview"
	"github.com/kas-agentk/kas/ror/registry"
	"github.com/kas-agentk/kas/ror/rest"
)

var errGitalyAway = errors.New("gitaly is away")

// neighbours plays Gitaly and kas.
type neighbours struct {
	fakekas.Kas
	gitaly error
}

func (n *neighbours) Create(context.Context, registry.Project) error { return n.gitaly }

// house is the API over HTTP, with an admin "root" and a user "ada".
type house struct {
	t      *testing.T
	reg    *registry.Registry
	url    string
	beside *neighbours
	tokens map[string]string
}

// in is the house for a subtest.
func (h *house) in(t *testing.T) *house {
	t.Helper()
	in := *h
	in.t = t
	return &in
}

func newHouse(t *testing.T) *house {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	reg, err := registry.Open(t.Context(), registry.Config{Path: filepath.Join(t.TempDir(), "ror.db"), Clock: clock, PasswordCost: bcrypt.MinCost})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reg.Close()) })
	h := &house{t: t, reg: reg, beside: &neighbours{}, tokens: map[string]string{"nobody": ""}}
	for _, name := range []string{"root", "ada"} {
		u, err := reg.CreateUser(t.Context(), registry.NewUser{Username: name, Admin: name == "root"})
		require.NoError(t, err)
		h.tokens[name] = h.token(u, registry.ScopeAPI)
	}
	mux := http.NewServeMux()
	rest.NewServer(rest.Config{
		ExternalURL: "http://ror", KasAgentAddress: "grpcs://kas", KasProxyURL: "https://kas/k8s-proxy/", KasProxyCA: "PEM", Clock: clock, Log: testkit.Logger(t),
		IsUnavailable: func(err error) bool { return errors.Is(err, errGitalyAway) },
	}, reg, hosting.NewProjects(reg, h.beside), overview.New(reg, h.beside), control.New(reg, h.beside, testkit.Logger(t)), clusters.New(h.beside)).Register(mux)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	h.url = srv.URL + "/api/v4"
	return h
}

func (h *house) token(u registry.User, scope string) string {
	h.t.Helper()
	_, token, err := h.reg.CreatePersonalToken(h.t.Context(), registry.NewPersonalToken{UserID: u.ID, Name: "t", Scopes: []string{scope}})
	require.NoError(h.t, err)
	return token
}

// do sends a request as a user and returns status and body.
func (h *house) do(who, method, path, body string) (int, string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(body))
	require.NoError(h.t, err)
	r.Header.Set("PRIVATE-TOKEN", h.tokens[who])
	return h.send(r)
}

func (h *house) send(r *http.Request) (int, string) {
	h.t.Helper()
	res, err := http.DefaultClient.Do(r)
	require.NoError(h.t, err)
	defer func() { require.NoError(h.t, res.Body.Close()) }()
	answer, err := io.ReadAll(res.Body)
	require.NoError(h.t, err)
	return res.StatusCode, string(answer)
}

// must is do for what has to work.
func (h *house) must(who, method, path, body string) string {
	h.t.Helper()
	code, answer := h.do(who, method, path, body)
	require.Less(h.t, code, 300, "%s %s: %s", method, path, answer)
	return answer
}

func TestUsers_AreMadeByAdmins(t *testing.T) {
	h := newHouse(t)
	require.JSONEq(t, `{"id":1,"username":"root","name":"root","state":"active","created_at":"2026-11-22T10:00:00.000Z","is_admin":true}`,
		h.must("root", "GET", "/user", ""))
	require.JSONEq(t, `{"id":3,"username":"bob","name":"Bob","state":"active","created_at":"2026-11-22T10:00:00.000Z","is_admin":false}`,
		h.must("root", "POST", "/users", `{"username":"bob","name":"Bob","password":"long enough","email":"bob@example.com"}`))

	var token struct {
		Token     string   `json:"token"`
		Scopes    []string `json:"scopes"`
		ExpiresAt string   `json:"expires_at"`
		Active    bool     `json:"active"`
	}
	require.NoError(t, json.Unmarshal([]byte(h.must("root", "POST", "/users/3/personal_access_tokens", `{"name":"ci","scopes":["api"],"expires_at":"2027-01-01"}`)), &token))
	require.Equal(t, []string{"api"}, token.Scopes)
	require.Equal(t, "2027-01-01", token.ExpiresAt)
	require.True(t, token.Active)
	h.tokens["bob"] = token.Token
	require.Contains(t, h.must("bob", "GET", "/user", ""), `"username":"bob"`)

	for _, row := range []struct {
		name, who, path, body string
		code                  int
		message               string
	}{
		{"only admins make users", "ada", "/users", `{"username":"eve"}`, 403, "403 Forbidden"},
		{"only admins make tokens", "ada", "/users/2/personal_access_tokens", `{"name":"x","scopes":["api"]}`, 403, "403 Forbidden"},
		{"a name is taken once", "root", "/users", `{"username":"ADA"}`, 409, "409 Conflict - has already been taken"},
		{"a scope must be known", "root", "/users/2/personal_access_tokens", `{"name":"x","scopes":["sudo"]}`, 400, "scopes can only contain api, read_api, read_repository, write_repository, k8s_proxy"},
		{"a date is a date", "root", "/users/2/personal_access_tokens", `{"name":"x","scopes":["api"],"expires_at":"soon"}`, 400, "expires_at is invalid: want YYYY-MM-DD"},
		{"a user must be there", "root", "/users/99/personal_access_tokens", `{"name":"x","scopes":["api"]}`, 404, "404 User Not Found"},
		{"a body is JSON", "root", "/users", `username=eve`, 400, "400 Bad request - the body must be JSON: invalid character 'u' looking for beginning of value"},
		{"a value has its type", "root", "/users", `{"username":1}`, 400, "username is invalid: want string, not number"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := h.in(t)
			code, answer := h.do(row.who, "POST", row.path, row.body)
			require.Equal(t, row.code, code)
			require.JSONEq(t, fmt.Sprintf(`{"message":%q}`, row.message), answer)
		})
	}
}

func TestAuthentication(t *testing.T) {
	h := newHouse(t)
	root, err := h.reg.User(t.Context(), 1)
	require.NoError(t, err)
	h.tokens["reader"] = h.token(root, registry.ScopeReadAPI)
	h.tokens["git"] = h.token(root, registry.ScopeWriteRepository)
	h.tokens["thief"] = "glpat-guessed"
	for _, row := range []struct {
		name, who, method string
		code              int
	}{
		{"no token", "nobody", "GET", 401},
		{"an unknown token", "thief", "GET", 401},
		{"a token that may read reads", "reader", "GET", 200},
		{"a token that may read does not write", "reader", "POST", 403},
		{"a token for Git is none for the API", "git", "GET", 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := h.in(t)
			code, answer := h.do(row.who, row.method, "/projects", `{"name":"x"}`)
			require.Equal(t, row.code, code, answer)
		})
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+"/user", http.NoBody)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+h.tokens["root"])
	code, _ := h.send(r)
	require.Equal(t, http.StatusOK, code, "as OAuth clients send it")
	code, answer := h.do("root", "GET", "/anything", "")
	require.Equal(t, http.StatusNotFound, code)
	require.JSONEq(t, `{"message":"404 Not found"}`, answer)
}

func TestProjects_CreateShowAndHide(t *testing.T) {
	h := newHouse(t)
	created := h.must("root", "POST", "/projects", `{"name":"My App","namespace_path":"platform/web"}`)
	require.JSONEq(t, `{"id":1,"description":"","name":"My App","name_with_namespace":"platform / web / My App","path":"my-app",
		"path_with_namespace":"platform/web/my-app","created_at":"2026-11-22T10:00:00.000Z","default_branch":"main",
		"http_url_to_repo":"http://ror/platform/web/my-app.git","web_url":"http://ror/platform/web/my-app","visibility":"private","creator_id":1,
		"namespace":{"id":4,"path":"web","kind":"group","full_path":"platform/web"}}`, created)
	require.JSONEq(t, created, h.must("root", "GET", "/projects/1", ""))
	require.JSONEq(t, created, h.must("root", "GET", "/projects/platform%2Fweb%2Fmy-app", ""))
	require.Contains(t, h.must("ada", "POST", "/projects", `{"path":"own","visibility":"public"}`), `"path_with_namespace":"ada/own"`)

	for _, row := range []struct {
		name, who, method, path, body string
		code                          int
		message                       string
	}{
		{"a private project is not there for strangers", "ada", "GET", "/projects/1", "", 404, "404 Project Not Found"},
		{"like one that does not exist", "ada", "GET", "/projects/99", "", 404, "404 Project Not Found"},
		{"users create in their own namespace only", "ada", "POST", "/projects", `{"path":"x","namespace_path":"platform/web"}`, 403,
			"403 Forbidden - " + hosting.ErrForbidden.Error()},
		{"a path is taken once", "root", "POST", "/projects", `{"path":"my-app","namespace_path":"platform/web"}`, 409, "409 Conflict - has already been taken"},
		{"a project has a name", "root", "POST", "/projects", `{}`, 400, "name, path are missing, at least one parameter must be provided"},
		{"who may see a project may not therefore add members", "root", "POST", "/projects/2/members", `{"user_id":1,"access_level":60}`, 403, "403 Forbidden"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := h.in(t)
			code, answer := h.do(row.who, row.method, row.path, row.body)
			require.Equal(t, row.code, code, answer)
			require.JSONEq(t, fmt.Sprintf(`{"message":%q}`, row.message), answer)
		})
	}
}

func TestCreateProject_WithoutGitalyLeavesNothing(t *testing.T) {
	h := newHouse(t)
	h.beside.gitaly = fmt.Errorf("create: %w", errGitalyAway)
	code, answer := h.do("root", "POST", "/projects", `{"path":"app"}`)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, answer, "Gitaly")
	require.JSONEq(t, `[]`, h.must("root", "GET", "/projects", ""))
	h.beside.gitaly = nil
	h.must("root", "POST", "/projects", `{"path":"app"}`)
}

func TestMembers_GetNoMoreThanTheGiverHas(t *testing.T) {
	h := newHouse(t)
	h.must("root", "POST", "/projects", `{"path":"app"}`)
	bob, err := h.reg.CreateUser(t.Context(), registry.NewUser{Username: "bob"})
	require.NoError(t, err)
	require.JSONEq(t, `{"id":2,"username":"ada","name":"ada","state":"active","access_level":40,"created_at":"2026-11-22T10:00:00.000Z","expires_at":null}`,
		h.must("root", "POST", "/projects/1/members", `{"user_id":2,"access_level":40}`))
	code, _ := h.do("ada", "POST", "/projects/1/members", fmt.Sprintf(`{"user_id":%d,"access_level":50}`, bob.ID))
	require.Equal(t, http.StatusForbidden, code)
	code, answer := h.do("root", "POST", "/projects/1/members", `{"user_id":2,"access_level":35}`)
	require.Equal(t, http.StatusBadRequest, code, answer)
	code, _ = h.do("root", "POST", "/projects/1/members", `{"user_id":99,"access_level":30}`)
	require.Equal(t, http.StatusNotFound, code)
	require.Contains(t, h.must("ada", "GET", "/projects/root%2Fapp/members", ""), `"username":"ada"`)
}

func TestAgents_LifeOfOneAndItsTokens(t *testing.T) {
	h := newHouse(t)
	h.must("root", "POST", "/projects", `{"path":"config"}`)
	const agents = "/projects/root%2Fconfig/cluster_agents"
	const agent = `"id":1,"name":"dev","config_project":{"id":1,"description":"","name":"config","name_with_namespace":"root / config","path":"config",
		"path_with_namespace":"root/config","created_at":"2026-11-22T10:00:00.000Z"},"created_at":"2026-11-22T10:00:00.000Z","created_by_user_id":1`
	require.JSONEq(t, `{`+agent+`,"connected":false,"connections":[]}`, h.must("root", "POST", agents, `{"name":"dev"}`))
	code, _ := h.do("root", "POST", agents, `{"name":"dev"}`)
	require.Equal(t, http.StatusConflict, code)
	code, _ = h.do("root", "POST", agents, `{"name":"Dev"}`)
	require.Equal(t, http.StatusBadRequest, code)

	h.beside.Connected = []*railsrpc.ConnectedAgent{{
		AgentId: 1, Version: "v1", PodName: "agentk-0", PodNamespace: "gitlab", KubernetesVersion: "v1.34.4",
		ConnectedAt: timestamppb.New(time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)),
	}}
	connected := `{` + agent + `,"connected":true,"connections":[{"version":"v1","pod_name":"agentk-0","pod_namespace":"gitlab",
		"kubernetes_version":"v1.34.4","connected_at":"2026-11-22T11:00:00.000Z"}]}`
	require.JSONEq(t, connected, h.must("root", "GET", agents+"/1", ""))
	require.JSONEq(t, `[`+connected+`]`, h.must("root", "GET", agents, ""))
	require.JSONEq(t, `[`+connected+`]`, h.must("root", "GET", "/cluster_agents", ""))
	require.JSONEq(t, `[]`, h.must("ada", "GET", "/cluster_agents", ""))

	const token = `"id":1,"name":"first","description":"for dev","agent_id":1,"created_at":"2026-11-22T10:00:00.000Z","created_by_user_id":1,"last_used_at":null`
	var made struct {
		Token string `json:"token"`
	}
	answer := h.must("root", "POST", agents+"/1/tokens", `{"name":"first","description":"for dev"}`)
	require.NoError(t, json.Unmarshal([]byte(answer), &made))
	require.JSONEq(t, `{`+token+`,"status":"active","token":"`+made.Token+`"}`, answer)
	_, err := h.reg.AgentByToken(t.Context(), made.Token)
	require.NoError(t, err)
	require.Contains(t, h.must("root", "GET", agents+"/1/tokens", ""), `"last_used_at":"2026-11-22T10:00:00.000Z"`)
	require.NotContains(t, h.must("root", "GET", agents+"/1/tokens", ""), made.Token)
	h.must("root", "DELETE", agents+"/1/tokens/1", "")
	require.JSONEq(t, `[]`, h.must("root", "GET", agents+"/1/tokens", ""))
	require.Contains(t, h.must("root", "GET", agents+"/1/tokens/1", ""), `"status":"revoked"`)

	h.must("root", "DELETE", agents+"/1", "")
	code, answer = h.do("root", "GET", agents+"/1", "")
	require.Equal(t, http.StatusNotFound, code)
	require.JSONEq(t, `{"message":"404 Agent Not Found"}`, answer)
}

func TestAgents_NeedTheRightRole(t *testing.T) {
	h := newHouse(t)
	h.must("root", "POST", "/projects", `{"path":"config","visibility":"public"}`)
	h.must("root", "POST", "/projects", `{"path":"other","visibility":"public"}`)
	h.must("root", "POST", "/projects/1/cluster_agents", `{"name":"dev"}`)
	look := func(path string) int { code, _ := h.do("ada", "GET", path, ""); return code }
	require.Equal(t, http.StatusForbidden, look("/projects/1/cluster_agents/1"), "a public project's agents are not public")
	h.must("root", "POST", "/projects/1/members", `{"user_id":2,"access_level":30}`)
	require.Equal(t, http.StatusOK, look("/projects/1/cluster_agents/1"))
	code, _ := h.do("ada", "POST", "/projects/1/cluster_agents/1/tokens", `{"name":"x"}`)
	require.Equal(t, http.StatusForbidden, code, "a developer makes no tokens")
	code, _ = h.do("root", "GET", "/projects/2/cluster_agents/1", "")
	require.Equal(t, http.StatusNotFound, code, "an agent is found in its own project only")
	code, _ = h.do("root", "GET", "/projects/1/cluster_agents/dev", "")
	require.Equal(t, http.StatusBadRequest, code)
}

func TestSyncStatus_ShowsAllWithAndWithoutObjects(t *testing.T) {
	h := newHouse(t)
	h.must("root", "POST", "/projects", `{"path":"config"}`)
	h.must("root", "POST", "/projects/1/cluster_agents", `{"name":"dev"}`)
	h.beside.Away = errors.New("down")
	for _, project := range []string{"root/a", "root/b"} {
		require.NoError(t, h.reg.ApplyUpdate(t.Context(), &syncstatus.Update{AgentId: 1, Update: &syncstatus.Update_Status{Status: &syncstatus.ProjectStatus{
			ProjectId: project, State: syncstatus.State_STATE_SYNCED,
			Objects: []*syncstatus.ObjectStatus{{Id: &syncstatus.ObjectID{Kind: "ConfigMap", Name: "x"}, SourceLine: 3}},
		}}}))
	}
	get := func(query string) (configuration string, projects []string, agent map[string]any) {
		var answer struct {
			Agent         map[string]any    `json:"agent"`
			Configuration json.RawMessage   `json:"configuration"`
			Projects      []json.RawMessage `json:"projects"`
		}
		require.NoError(t, json.Unmarshal([]byte(h.must("root", "GET", "/projects/1/cluster_agents/1/sync_status"+query, "")), &answer))
		for _, p := range answer.Projects {
			projects = append(projects, string(p))
		}
		return string(answer.Configuration), projects, answer.Agent
	}
	configuration, projects, agent := get("")
	require.Equal(t, "null", configuration)
	require.Len(t, projects, 2)
	require.JSONEq(t, `{"agent_id":"1","project_id":"root/a","state":"STATE_SYNCED","objects":[{"id":{"kind":"ConfigMap","name":"x"},"source_line":3}]}`, projects[0])
	require.Nil(t, agent["connected"])
	require.NotEmpty(t, agent["kas_error"])

	require.NoError(t, h.reg.ApplyUpdate(t.Context(), &syncstatus.Update{AgentId: 1, Update: &syncstatus.Update_Configuration{
		Configuration: &syncstatus.ConfigurationStatus{CommitId: "abc"},
	}}))
	configuration, projects, _ = get("?project=root%2Fb&objects=false")
	require.JSONEq(t, `{"commit_id":"abc"}`, configuration)
	require.Len(t, projects, 1)
	require.JSONEq(t, `{"agent_id":"1","project_id":"root/b","state":"STATE_SYNCED"}`, projects[0])
	code, _ := h.do("root", "GET", "/projects/1/cluster_agents/1/sync_status?objects=some", "")
	require.Equal(t, http.StatusBadRequest, code)
}
