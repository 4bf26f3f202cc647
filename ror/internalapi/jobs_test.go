package internalapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/ror/registry"
)

// job makes a request of a CI job, or of kas in its name.
func (h *house) job(token string) *http.Request {
	r := httptest.NewRequestWithContext(h.t.Context(), http.MethodGet, gitlabapi.PathAllowedAgents, http.NoBody)
	if token != "" {
		r.Header.Set(gitlabapi.JobTokenHeader, token)
	}
	return r
}

func (h *house) startJob(n registry.NewJob) (registry.Job, string) {
	h.t.Helper()
	n.User = h.root
	j, token, err := h.reg.CreateJob(h.t.Context(), n)
	require.NoError(h.t, err)
	return j, token
}

// configure gives an agent a configuration as kas does.
func (h *house) configure(a registry.Agent, config string) {
	h.t.Helper()
	body := fmt.Sprintf(`{"agent_id":%d,"agent_config":%s}`, a.ID, config)
	require.Equal(h.t, http.StatusNoContent, h.do(h.kas("POST", gitlabapi.PathAgentConfiguration, "", body), nil))
}

// allowed are the configurations, by the agents' names, that a job gets.
func (h *house) allowed(token string, names map[int64]string) map[string]string {
	h.t.Helper()
	var answer gitlabapi.AllowedAgents
	require.Equal(h.t, http.StatusOK, h.do(h.job(token), &answer))
	got := map[string]string{}
	for _, a := range answer.AllowedAgents {
		got[names[a.ID]] = string(a.Configuration)
	}
	return got
}

func TestAllowedAgents_ByCiAccessOfTheConfigurations(t *testing.T) {
	h := newHouse(t)
	app := h.addProject("team/web", "app", registry.Private)
	names := map[int64]string{}
	agent := func(name, namespace string) registry.Agent {
		p, err := h.reg.FindProject(t.Context(), namespace+"/agents")
		if err != nil {
			p = h.addProject(namespace, "agents", registry.Private)
		}
		a, err := h.reg.CreateAgent(t.Context(), p, name, h.root.ID)
		require.NoError(t, err)
		names[a.ID] = name
		return a
	}
	own, err := h.reg.CreateAgent(t.Context(), app, "own", h.root.ID)
	require.NoError(t, err)
	names[own.ID] = "own"
	here, elsewhere, beside := agent("here", "team"), agent("elsewhere", "other"), agent("beside", "teammate")

	for _, row := range []struct {
		name string
		// access is ci_access of agent here.
		access      string
		ref         string
		environment string
		want        string
	}{
		{"nothing", `{}`, "main", "", ""},
		{"the project, by whatever letters", `{"projects":[{"id":"Team/Web/App","access_as":{"ci_job":{}},"default_namespace":"web"}]}`, "main", "",
			`{"default_namespace":"web","access_as":{"ci_job":{}}}`},
		{"a number is no path", `{"projects":[{"id":"2"}]}`, "main", "", ""},
		{"another project", `{"projects":[{"id":"team/web/application"}]}`, "main", "", ""},
		{"the project's group", `{"groups":[{"id":"team/web"}]}`, "main", "", `{}`},
		{"a group further up", `{"groups":[{"id":"team"}]}`, "main", "", `{}`},
		{"what only begins alike is no group of it", `{"groups":[{"id":"tea"}]}`, "main", "", ""},
		{"the innermost group counts", `{"groups":[{"id":"team/web","default_namespace":"inner"},{"id":"team","default_namespace":"outer"}]}`, "main", "",
			`{"default_namespace":"inner"}`},
		{"the project counts before its groups", `{"projects":[{"id":"team/web/app","default_namespace":"p"}],"groups":[{"id":"team/web"}]}`, "main", "",
			`{"default_namespace":"p"}`},
		{"of two entries the last counts", `{"projects":[{"id":"team/web/app","default_namespace":"1"},{"id":"team/web/app","default_namespace":"2"}]}`, "main", "",
			`{"default_namespace":"2"}`},
		{"one that counts and does not let in", `{"projects":[{"id":"team/web/app","environments":["x"]}],"groups":[{"id":"team"}]}`, "main", "", ""},
		{"the environment", `{"groups":[{"id":"team","environments":["x","prod"]}]}`, "main", "prod", `{"environments":["x","prod"]}`},
		{"an environment by a pattern", `{"groups":[{"id":"team","environments":["review/*"]}]}`, "main", "review/a.b/c", `{"environments":["review/*"]}`},
		{"a pattern holds from beginning to end", `{"groups":[{"id":"team","environments":["review/*"]}]}`, "main", "my/review/1", ""},
		{"a dot is a dot", `{"groups":[{"id":"team","environments":["a.b"]}]}`, "main", "axb", ""},
		{"another environment", `{"groups":[{"id":"team","environments":["prod"]}]}`, "main", "production", ""},
		{"no environment where one is asked for", `{"groups":[{"id":"team","environments":["*"]}]}`, "main", "", ""},
		{"a protected branch", `{"groups":[{"id":"team","protected_branches_only":true}]}`, "main", "", `{"protected_branches_only":true}`},
		{"another branch where a protected one is asked for", `{"groups":[{"id":"team","protected_branches_only":true}]}`, "topic", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := h.in(t)
			config := `{"ci_access":` + row.access + `}`
			for _, a := range []registry.Agent{here, elsewhere, beside} {
				h.configure(a, config) // who is of another root does not count, whatever it says
			}
			_, token := h.startJob(registry.NewJob{Project: app, Ref: row.ref, Environment: row.environment})
			want := map[string]string{"own": "{}"}
			if row.want != "" {
				want["here"] = row.want
			}
			require.Equal(t, want, h.allowed(token, names))
		})
	}

	t.Run("of an entry for the own project all holds", func(t *testing.T) {
		h := h.in(t)
		h.configure(own, `{"ci_access":{"projects":[{"id":"team/web/app","environments":["prod"],"access_as":{"ci_job":{}}}],"groups":[{"id":"team"}]}}`)
		h.configure(here, `{}`)
		_, token := h.startJob(registry.NewJob{Project: app, Ref: "main"})
		require.Empty(t, h.allowed(token, names))
		_, token = h.startJob(registry.NewJob{Project: app, Ref: "main", Environment: "prod"})
		require.Contains(t, h.allowed(token, names)["own"], `"ci_job"`)
	})
	t.Run("an entry for a group leaves the own project's agent as it is", func(t *testing.T) {
		h := h.in(t)
		h.configure(own, `{"ci_access":{"groups":[{"id":"team","environments":["prod"]}]}}`)
		_, token := h.startJob(registry.NewJob{Project: app, Ref: "main"})
		require.Equal(t, map[string]string{"own": "{}"}, h.allowed(token, names))
	})
}

func TestAllowedAgents_OfAPersonsOwnProjectKnowNoGroups(t *testing.T) {
	h := newHouse(t)
	app := h.addProject("root", "app", registry.Private)
	names := map[int64]string{h.agent.ID: "dev"}
	_, token := h.startJob(registry.NewJob{Project: app, Ref: "main"})
	h.configure(h.agent, `{"ci_access":{"groups":[{"id":"root"}]}}`)
	require.Empty(t, h.allowed(token, names))
	h.configure(h.agent, `{"ci_access":{"projects":[{"id":"root/app"}]}}`)
	require.Equal(t, map[string]string{"dev": "{}"}, h.allowed(token, names))
}

func TestAllowedAgents_SaysWhoAsks(t *testing.T) {
	h := newHouse(t)
	app := h.addProject("team/web", "app", registry.Private)
	h.startJob(registry.NewJob{Project: app, Ref: "main"})
	job, token := h.startJob(registry.NewJob{Project: app, Ref: "main", Environment: "eu/prod", Tier: "staging"})
	groups, err := h.reg.GroupsAbove(t.Context(), app)
	require.NoError(t, err)
	var answer json.RawMessage
	require.Equal(t, http.StatusOK, h.do(h.job(token), &answer))
	require.JSONEq(t, fmt.Sprintf(`{"allowed_agents":[],"job":{"id":2},"pipeline":{"id":2},"project":{"id":%d,"groups":[{"id":%d},{"id":%d}]},
		"user":{"id":1,"username":"root"},"environment":{"slug":%q,"tier":"staging"}}`,
		app.ID, groups[0].ID, groups[1].ID, job.Environment.Slug), string(answer))

	_, plain := h.startJob(registry.NewJob{Project: app, Ref: "main"})
	require.Equal(t, http.StatusOK, h.do(h.job(plain), &answer))
	require.NotContains(t, string(answer), "environment")
}

func TestAllowedAgents_RefusesWhoIsNoRunningJob(t *testing.T) {
	h := newHouse(t)
	project := h.agent.Project
	finished, finishedToken := h.startJob(registry.NewJob{Project: project, Ref: "main"})
	_, err := h.reg.FinishJob(t.Context(), project.ID, finished.ID)
	require.NoError(t, err)
	_, lateToken := h.startJob(registry.NewJob{Project: project, Ref: "main"})
	h.clock.SetTime(h.clock.Now().Add(registry.JobLifetime))
	_, token := h.startJob(registry.NewJob{Project: project, Ref: "main"})
	require.Equal(t, http.StatusOK, h.do(h.job(token), nil))
	for name, token := range map[string]string{
		"no token": "", "an unknown one": "glcbt-" + strings.Repeat("x", 52), "a job that has finished": finishedToken,
		"a job whose time is up": lateToken, "an agent's token": h.token,
	} {
		require.Equal(t, http.StatusUnauthorized, h.do(h.job(token), &gitlabapi.Message{}), name)
	}
}
