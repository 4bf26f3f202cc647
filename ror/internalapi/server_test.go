package internalapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/ror/internalapi"
	"github.com/kas-agentk/kas/ror/registry"
)

const shellSecret = "a secret of gitlab-shell"

var kasSecret = []byte(strings.Repeat("k", 32))

// house is a server with an agent "dev" of root's in project root/config.
type house struct {
	t       *testing.T
	clock   *clocktesting.FakePassiveClock
	reg     *registry.Registry
	handler http.Handler
	pushes  []registry.Push

	root  registry.User
	agent registry.Agent
	token string
}

type repositories struct{}

func (repositories) Info() gitlabapi.GitalyInfo {
	return gitlabapi.GitalyInfo{Address: "tcp://gitaly:1", Token: "t", Features: map[string]string{}}
}

func (repositories) Repository(p registry.Project) gitlabapi.GitalyRepository {
	return gitlabapi.GitalyRepository{StorageName: "default", RelativePath: p.RelativePath(), GlRepository: p.GLRepository(), GlProjectPath: p.FullPath}
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
	h := &house{t: t, clock: clocktesting.NewFakePassiveClock(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))}
	var err error
	h.reg, err = registry.Open(t.Context(), registry.Config{Path: filepath.Join(t.TempDir(), "ror.db"), Clock: h.clock, PasswordCost: bcrypt.MinCost})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.reg.Close()) })
	h.root = h.addUser("root", true)
	h.agent, err = h.reg.CreateAgent(t.Context(), h.addProject("root", "config", registry.Private), "dev", h.root.ID)
	require.NoError(t, err)
	_, h.token, err = h.reg.CreateAgentToken(t.Context(), h.agent.ID, "t", "", h.root.ID)
	require.NoError(t, err)
	mux := http.NewServeMux()
	internalapi.NewServer(internalapi.Config{
		KasSecret: kasSecret, ShellSecret: []byte(shellSecret + "\n"), ExternalURL: "http://ror", Clock: h.clock, Log: testkit.Logger(t),
		OnPush: func(_ context.Context, p registry.Push) { h.pushes = append(h.pushes, p) },
	}, h.reg, repositories{}).Register(mux)
	h.handler = mux
	return h
}

func (h *house) addUser(name string, admin bool) registry.User {
	h.t.Helper()
	u, err := h.reg.CreateUser(h.t.Context(), registry.NewUser{Username: name, Admin: admin})
	require.NoError(h.t, err)
	return u
}

func (h *house) addProject(namespace, path string, v registry.Visibility) registry.Project {
	h.t.Helper()
	p, err := h.reg.CreateProject(h.t.Context(), registry.NewProject{Namespace: namespace, Path: path, Visibility: v, CreatorID: h.root.ID})
	require.NoError(h.t, err)
	return p
}

// do sends a request as it is and decodes the answer into answer, unless that is nil.
func (h *house) do(r *http.Request, answer any) int {
	h.t.Helper()
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	if answer != nil {
		require.Equal(h.t, "application/json", w.Header().Get("Content-Type"))
		require.NoError(h.t, json.Unmarshal(w.Body.Bytes(), answer), "%s", w.Body)
	}
	return w.Code
}

// kas makes a request of kas, for the agent of that token unless it is empty.
func (h *house) kas(method, path, token, body string) *http.Request {
	h.t.Helper()
	r := httptest.NewRequestWithContext(h.t.Context(), method, path, strings.NewReader(body))
	jwt, err := jwtauth.Sign(kasSecret, jwtauth.IssuerKas, jwtauth.AudienceGitlab, h.clock.Now())
	require.NoError(h.t, err)
	r.Header.Set(gitlabapi.RequestHeader, jwt)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

// hook makes a request of Gitaly's hooks.
func (h *house) hook(path, body string) *http.Request {
	r := httptest.NewRequestWithContext(h.t.Context(), http.MethodPost, "/api/v4/internal/"+path, strings.NewReader(body))
	r.Header.Set("Gitlab-Shared-Secret", base64.StdEncoding.EncodeToString([]byte(shellSecret)))
	return r
}

func TestEveryEndpoint_RefusesWhoProvesNothing(t *testing.T) {
	h := newHouse(t)
	jwt := func(secret, issuer, audience string, at time.Time) string {
		token, err := jwtauth.Sign([]byte(secret), issuer, audience, at)
		require.NoError(t, err)
		return token
	}
	good := string(kasSecret)
	for _, endpoint := range []struct{ method, path string }{
		{"GET", gitlabapi.PathAgentInfo},
		{"GET", gitlabapi.PathProjectInfo + "?id=root/config"},
		{"POST", gitlabapi.PathAgentConfiguration},
		{"POST", gitlabapi.PathUsageMetrics},
		{"POST", gitlabapi.PathAgentEvents},
		{"POST", gitlabapi.PathAuthorizeProxyUser},
		{"POST", gitlabapi.PathSyncStatus},
		{"GET", gitlabapi.BasePath + "/anything"},
	} {
		for name, token := range map[string]string{
			"no token":           "",
			"garbage":            "x.y.z",
			"another secret":     jwt(strings.Repeat("x", 32), jwtauth.IssuerKas, jwtauth.AudienceGitlab, h.clock.Now()),
			"the other way":      jwt(good, jwtauth.IssuerGitlab, jwtauth.AudienceKas, h.clock.Now()),
			"a token that ended": jwt(good, jwtauth.IssuerKas, jwtauth.AudienceGitlab, h.clock.Now().Add(-time.Minute)),
			"one of the future":  jwt(good, jwtauth.IssuerKas, jwtauth.AudienceGitlab, h.clock.Now().Add(time.Minute)),
		} {
			r := h.kas(endpoint.method, endpoint.path, h.token, "{}")
			r.Header.Set(gitlabapi.RequestHeader, token)
			var answer gitlabapi.Message
			require.Equal(t, http.StatusUnauthorized, h.do(r, &answer), "%s with %s", endpoint.path, name)
			require.Equal(t, "401 Unauthorized", answer.Message)
		}
	}
	for _, path := range []string{"allowed", "pre_receive", "post_receive", "anything"} {
		for _, secret := range []string{"", "!", base64.StdEncoding.EncodeToString([]byte("wrong"))} {
			r := h.hook(path, "{}")
			r.Header.Set("Gitlab-Shared-Secret", secret)
			require.Equal(t, http.StatusUnauthorized, h.do(r, nil), path)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v4/job/allowed_agents", http.NoBody)
	require.Equal(t, http.StatusUnauthorized, h.do(r, &gitlabapi.Message{}))
}

func TestAgentInfo_TellsWhereTheConfigurationIs(t *testing.T) {
	h := newHouse(t)
	var info gitlabapi.AgentInfo
	require.Equal(t, http.StatusOK, h.do(h.kas("GET", gitlabapi.PathAgentInfo, h.token, ""), &info))
	require.Equal(t, gitlabapi.AgentInfo{
		ProjectID: h.agent.Project.ID, AgentID: h.agent.ID, AgentName: "dev",
		GitalyInfo: repositories{}.Info(), GitalyRepository: repositories{}.Repository(h.agent.Project), DefaultBranch: "main",
	}, info)

	for name, token := range map[string]string{"no token": "", "an unknown token": "glagent-unknown"} {
		require.Equal(t, http.StatusUnauthorized, h.do(h.kas("GET", gitlabapi.PathAgentInfo, token, ""), &gitlabapi.Message{}), name)
	}
	require.NoError(t, h.reg.RevokeAgentToken(t.Context(), h.agent.ID, 1))
	require.Equal(t, http.StatusUnauthorized, h.do(h.kas("GET", gitlabapi.PathAgentInfo, h.token, ""), &gitlabapi.Message{}))
}

func TestProjectInfo_HidesWhatTheAgentMayNotRead(t *testing.T) {
	h := newHouse(t)
	ada := h.addUser("ada", false)
	config := h.addProject("ada", "config", registry.Private)
	private := h.addProject("root", "private", registry.Private)
	agent, err := h.reg.CreateAgent(t.Context(), config, "adas", ada.ID)
	require.NoError(t, err)
	_, token, err := h.reg.CreateAgentToken(t.Context(), agent.ID, "t", "", ada.ID)
	require.NoError(t, err)

	for _, id := range []string{"ada%2Fconfig", "2"} {
		var info gitlabapi.ProjectInfo
		require.Equal(t, http.StatusOK, h.do(h.kas("GET", gitlabapi.PathProjectInfo+"?id="+id, token, ""), &info))
		require.Equal(t, gitlabapi.ProjectInfo{
			ProjectID: config.ID, GitalyInfo: repositories{}.Info(), GitalyRepository: repositories{}.Repository(config), DefaultBranch: "main",
		}, info)
	}
	answers := map[string]gitlabapi.Message{}
	for _, id := range []string{private.FullPath, "root/missing"} {
		var answer gitlabapi.Message
		require.Equal(t, http.StatusNotFound, h.do(h.kas("GET", gitlabapi.PathProjectInfo+"?id="+id, token, ""), &answer))
		answers[id] = answer
	}
	require.Equal(t, answers["root/missing"], answers[private.FullPath])
	require.Equal(t, http.StatusBadRequest, h.do(h.kas("GET", gitlabapi.PathProjectInfo, token, ""), &gitlabapi.Message{}))
}

func TestSyncStatus_IsStored(t *testing.T) {
	h := newHouse(t)
	const body = `{"agent_id":"1","status":{"project_id":"root/app","state":"STATE_SYNCED","wanted_commit":"abc","future_field":1}}`
	require.Equal(t, http.StatusNoContent, h.do(h.kas("POST", gitlabapi.PathSyncStatus, "", body), nil))
	list, err := h.reg.Statuses(t.Context(), h.agent.ID, "", true)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "abc", list[0].GetWantedCommit())

	for name, row := range map[string]struct {
		body   string
		status int
	}{
		"an agent that is gone":     {`{"agent_id":"9","status":{"project_id":"p"}}`, http.StatusNotFound},
		"no JSON":                   {`{`, http.StatusBadRequest},
		"a status of no project":    {`{"agent_id":"1","status":{}}`, http.StatusBadRequest},
		"more than memory is for":   {`{"agent_id":"1","status":{"message":"` + strings.Repeat("x", 64<<20) + `"}}`, http.StatusRequestEntityTooLarge},
		"an update without content": {`{"agent_id":"1"}`, http.StatusBadRequest},
	} {
		require.Equal(t, row.status, h.do(h.kas("POST", gitlabapi.PathSyncStatus, "", row.body), &gitlabapi.Message{}), name)
	}
}

func TestUsageMetricsAndEvents_AreTaken(t *testing.T) {
	h := newHouse(t)
	for _, row := range []struct {
		path, body string
		status     int
	}{
		{gitlabapi.PathUsageMetrics, `{"counters":{"gitops_sync":3},"unique_counters":{"agents":[1,2]}}`, http.StatusNoContent},
		{gitlabapi.PathUsageMetrics, `{}`, http.StatusNoContent},
		{gitlabapi.PathUsageMetrics, `{"counters":{"gitops_sync":-3}}`, http.StatusBadRequest},
		{gitlabapi.PathAgentEvents, `{"events":{"k8s_api_proxy_requests_unique_users_via_ci_access":[{"user_id":1,"project_id":1}]}}`, http.StatusNoContent},
		{gitlabapi.PathAgentEvents, `[]`, http.StatusBadRequest},
	} {
		require.Equal(t, row.status, h.do(h.kas("POST", row.path, "", row.body), nil), "%s %s", row.path, row.body)
	}
}
