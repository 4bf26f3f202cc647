package rails

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/time/rate"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/jwtauth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = []byte("0123456789abcdef0123456789abcdef")

func config(address string) ClientConfig {
	return ClientConfig{Address: address, Secret: secret, Limit: rate.Inf, Clock: clock.RealClock{}}
}

func newClient(t *testing.T, cfg ClientConfig) *Client {
	t.Helper()
	client, err := NewClient(cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// railsWith serves one handler as RoR.
func railsWith(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return newClient(t, config(server.URL))
}

// noted is what a request said.
type noted struct {
	Method, URI, Authorization, ContentType string
	Body, JobToken                          string
}

func TestPostSyncStatus_TellsAMissingEndpointFromAMissingAgent(t *testing.T) {
	for name, row := range map[string]struct {
		body   string
		absent bool
	}{
		"GitLab's router": {`{"error":"404 Not Found"}`, true},
		"a proxy's page":  {`<html>`, true},
		"a missing agent": {`{"message":"404 Agent Not Found"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := railsWith(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, row.body)
			})
			err := client.PostSyncStatus(t.Context(), &syncstatus.Update{AgentId: 7})
			if !errors.Is(err, gitlabapi.ErrNotFound) || errors.Is(err, gitlabapi.ErrNoEndpoint) != row.absent {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestClient_AsksAsGitLabWantsIt(t *testing.T) {
	agentInfo := gitlabapi.AgentInfo{
		ProjectID: 3, AgentID: 7, AgentName: "seven", DefaultBranch: "main",
		GitalyInfo:       gitlabapi.GitalyInfo{Address: "tcp://gitaly:8075", Token: "secret", Features: map[string]string{"x": "true"}},
		GitalyRepository: gitlabapi.GitalyRepository{StorageName: "default", RelativePath: "@hashed/a.git", GlRepository: "project-3", GlProjectPath: "a/b"},
	}
	projectInfo := gitlabapi.ProjectInfo{ProjectID: 4, GitalyInfo: agentInfo.GitalyInfo, GitalyRepository: agentInfo.GitalyRepository, DefaultBranch: "main"}
	for name, row := range map[string]struct {
		ask    func(context.Context, *Client) (any, error)
		answer any
		want   noted
	}{
		"who an agent is": {
			func(ctx context.Context, c *Client) (any, error) { return c.AgentInfo(ctx, "glagent-1") },
			agentInfo,
			noted{Method: "GET", URI: "/api/v4/internal/kubernetes/agent_info", Authorization: "Bearer glagent-1"},
		},
		"where a project is, whatever its name holds": {
			func(ctx context.Context, c *Client) (any, error) { return c.ProjectInfo(ctx, "glagent-1", "a/b&c=d e") },
			projectInfo,
			noted{Method: "GET", URI: "/api/v4/internal/kubernetes/project_info?id=a%2Fb%26c%3Dd+e", Authorization: "Bearer glagent-1"},
		},
		"the configuration of an agent": {
			func(ctx context.Context, c *Client) (any, error) {
				return nil, c.PostAgentConfiguration(ctx, 7, &agentcfg.ConfigurationFile{
					Gitops: &agentcfg.Gitops{ManifestProjects: []*agentcfg.ManifestProject{{Id: "a/b", DefaultNamespace: "ns"}}},
				})
			},
			nil,
			noted{
				Method: "POST", URI: "/api/v4/internal/kubernetes/agent_configuration", ContentType: "application/json",
				Body: `{"agent_id":7,"agent_config":{"gitops":{"manifest_projects":[{"id":"a/b","default_namespace":"ns"}]}}}`,
			},
		},
		"as whom a person reaches a cluster": {
			func(ctx context.Context, c *Client) (any, error) {
				return c.AuthorizeProxyUser(ctx, gitlabapi.ProxyUserRequest{AgentID: 7, AccessType: gitlabapi.AccessSessionCookie, AccessKey: "k", CSRFToken: "c"})
			},
			gitlabapi.ProxyUser{
				Agent: gitlabapi.ConfiguredAgent{ID: 7, ConfigProject: gitlabapi.Numbered{ID: 3}}, User: gitlabapi.User{ID: 5, Username: "alice"},
				AccessAs: gitlabapi.ProxyAccessAs{User: &gitlabapi.UserGrants{Projects: []gitlabapi.Grant{{ID: 3, Roles: []string{"developer"}}}, Groups: []gitlabapi.Grant{}}},
			},
			noted{
				Method: "POST", URI: "/api/v4/internal/kubernetes/authorize_proxy_user", ContentType: "application/json",
				Body: `{"agent_id":7,"access_type":"session_cookie","access_key":"k","csrf_token":"c"}`,
			},
		},
		"which clusters a CI job may reach": {
			func(ctx context.Context, c *Client) (any, error) { return c.AllowedAgents(ctx, "job-token") },
			gitlabapi.AllowedAgents{
				AllowedAgents: []gitlabapi.AllowedAgent{{ID: 7, ConfigProject: gitlabapi.Numbered{ID: 3}, Configuration: json.RawMessage(`{"access_as":{"ci_job":{}}}`)}},
				Job:           gitlabapi.Numbered{ID: 1}, Pipeline: gitlabapi.Numbered{ID: 2}, User: gitlabapi.User{ID: 5, Username: "alice"},
				Project: gitlabapi.JobProject{ID: 4, Groups: []gitlabapi.Numbered{{ID: 8}}}, Environment: &gitlabapi.Environment{Slug: "prod", Tier: "production"},
			},
			noted{Method: "GET", URI: "/api/v4/job/allowed_agents", JobToken: "job-token"},
		},
		"a status": {
			func(ctx context.Context, c *Client) (any, error) {
				return nil, c.PostSyncStatus(ctx, &syncstatus.Update{AgentId: 7, Update: &syncstatus.Update_RemovedProjectId{RemovedProjectId: "a/b"}})
			},
			nil,
			noted{
				Method: "POST", URI: "/api/v4/internal/kubernetes/sync_status", ContentType: "application/json",
				Body: `{"agent_id":"7","removed_project_id":"a/b"}`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got noted
			client := railsWith(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = noted{r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("Content-Type"), compact(t, body), r.Header.Get("Job-Token")}
				if err := jwtauth.Verify(secret, r.Header.Get("Gitlab-Kas-Api-Request"), "gitlab-kas", "gitlab", time.Now()); err != nil {
					t.Error(err)
				}
				if row.answer == nil {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				_ = json.NewEncoder(w).Encode(row.answer)
			})
			answer, err := row.ask(t.Context(), client)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.answer, answer); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// compact takes the spaces out that protojson puts in at random.
func compact(t *testing.T, body []byte) string {
	t.Helper()
	if len(body) == 0 {
		return ""
	}
	var raw json.RawMessage = body
	out, err := json.Marshal(raw)
	if err != nil {
		t.Error(err)
	}
	return string(out)
}

func TestClient_SaysWhatWentWrong(t *testing.T) {
	const who = "RoR: GET /api/v4/internal/kubernetes/agent_info: "
	answer := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, row := range map[string]struct {
		handler http.HandlerFunc
		kind    error
		want    string
	}{
		"the token is unknown":     {answer(401, `{"message":"401 Unauthorized"}`), gitlabapi.ErrUnauthorized, who + "unauthorized (401 Unauthorized): 401 Unauthorized"},
		"not allowed":              {answer(403, `{}`), gitlabapi.ErrForbidden, who + "forbidden (403 Forbidden)"},
		"no such thing":            {answer(404, `not JSON`), gitlabapi.ErrNotFound, who + "not found (404 Not Found)"},
		"a bad request":            {answer(400, `{"message":"id is missing"}`), gitlabapi.ErrRejected, who + "rejected (400 Bad Request): id is missing"},
		"too much asked":           {answer(429, ``), gitlabapi.ErrUnavailable, who + "unavailable (429 Too Many Requests)"},
		"RoR fails":                {answer(502, `{"message":"upstream"}`), gitlabapi.ErrUnavailable, who + "unavailable (502 Bad Gateway): upstream"},
		"a message without end":    {answer(500, `{"message":"`+strings.Repeat("x", 2000)+`"}`), gitlabapi.ErrUnavailable, who + "unavailable (500 Internal Server Error): " + strings.Repeat("x", 500) + "…"},
		"an answer without end":    {answer(200, `"`+strings.Repeat("x", maxResponse)+`"`), gitlabapi.ErrUnavailable, who + "unavailable (200 OK): the answer is larger than 1048576 bytes"},
		"an answer of another API": {answer(200, `<html>`), gitlabapi.ErrUnavailable, who + "unavailable (200 OK): the answer is not what the API promises: invalid character '<' looking for beginning of value"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := railsWith(t, row.handler).AgentInfo(t.Context(), "glagent-1")
			if !errors.Is(err, row.kind) || err.Error() != row.want {
				t.Errorf("got  %v\nwant %s", err, row.want)
			}
		})
	}
}

func TestClient_FollowsNoRedirect(t *testing.T) {
	var asked int
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer thief.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		client := railsWith(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, thief.URL, code) })
		_, err := client.AgentInfo(t.Context(), "glagent-1")
		if !errors.Is(err, gitlabapi.ErrUnavailable) || !strings.Contains(err.Error(), "put the final address into gitlab.address") {
			t.Errorf("%d: got %v", code, err)
		}
	}
	if asked != 0 {
		t.Error("a redirect was followed")
	}
}

func TestClient_GivesUpInTime(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(release)
	cfg := config(server.URL)
	cfg.Timeout = 20 * time.Millisecond
	_, err := newClient(t, cfg).AgentInfo(t.Context(), "glagent-1")
	if !errors.Is(err, gitlabapi.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestClient_NobodyListens(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	_, err := newClient(t, config(server.URL)).AgentInfo(t.Context(), "glagent-1")
	if !errors.Is(err, gitlabapi.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(err.Error(), "http://") {
		t.Errorf("the error repeats the URL: %v", err)
	}
}

func TestClient_KeepsToTheRateLimit(t *testing.T) {
	var asked int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = io.WriteString(w, `{}`)
	}))
	defer server.Close()
	cfg := config(server.URL)
	cfg.Limit, cfg.Burst, cfg.Timeout = rate.Every(time.Hour), 2, time.Minute
	client := newClient(t, cfg)
	var failed int
	for range 5 {
		if _, err := client.AgentInfo(t.Context(), "glagent-1"); err != nil {
			failed++
			if !errors.Is(err, gitlabapi.ErrUnavailable) || !strings.Contains(err.Error(), "gitlab.api_rate_limit") {
				t.Errorf("got %v", err)
			}
		}
	}
	if asked != 2 || failed != 3 {
		t.Errorf("%d asked, %d failed", asked, failed)
	}
}

func TestClient_TrustsTheAuthorityItIsGiven(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"agent_id":7}`) }))
	defer server.Close()
	if _, err := newClient(t, config(server.URL)).AgentInfo(t.Context(), "t"); !errors.Is(err, gitlabapi.ErrUnavailable) {
		t.Errorf("an unknown authority was trusted: %v", err)
	}
	cfg := config(server.URL)
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	if info, err := newClient(t, cfg).AgentInfo(t.Context(), "t"); err != nil || info.AgentID != 7 {
		t.Errorf("got %v, %v", info, err)
	}
}

func TestClient_KeepsThePathOfTheAddress(t *testing.T) {
	var path string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { path = r.URL.Path; _, _ = io.WriteString(w, `{}`) }))
	defer server.Close()
	if _, err := newClient(t, config(server.URL+"/gitlab/")).AgentInfo(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if path != "/gitlab/api/v4/internal/kubernetes/agent_info" {
		t.Errorf("asked %s", path)
	}
}

func TestNewClient_RefusesBadAddresses(t *testing.T) {
	for _, address := range []string{"", "gitlab.example.com", "ftp://x", "https://", "https://user:secret@x", "http://a b"} {
		if _, err := NewClient(config(address), prometheus.NewRegistry()); err == nil {
			t.Errorf("%q was taken", address)
		}
	}
}
