package proxy

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

func equal(t *testing.T, want, got *agentrpc.Impersonation) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("- want, + got:\n%s", diff)
	}
}

func refusedWith(t *testing.T, err error, code int) {
	t.Helper()
	var why *refusal
	require.ErrorAs(t, err, &why)
	require.Equal(t, code, why.code, why.message)
}

func extras(pairs ...string) []*agentrpc.ImpersonationExtra {
	var all []*agentrpc.ImpersonationExtra
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, &agentrpc.ImpersonationExtra{Key: pairs[i], Values: []string{pairs[i+1]}})
	}
	return all
}

func TestUserImpersonation_IsGitLabs(t *testing.T) {
	user := gitlabapi.ProxyUser{
		Agent: gitlabapi.ConfiguredAgent{ID: 7, ConfigProject: gitlabapi.Numbered{ID: 3}}, User: gitlabapi.User{ID: 5, Username: "alice"},
	}
	for name, row := range map[string]struct {
		as   gitlabapi.ProxyAccessAs
		want *agentrpc.Impersonation
		code int
	}{
		"as the agent": {gitlabapi.ProxyAccessAs{Agent: &struct{}{}}, nil, 0},
		"as the person": {gitlabapi.ProxyAccessAs{User: &gitlabapi.UserGrants{
			Projects: []gitlabapi.Grant{{ID: 10, Roles: []string{"reporter", "developer"}}}, Groups: []gitlabapi.Grant{{ID: 11, Roles: []string{"owner"}}},
		}}, &agentrpc.Impersonation{
			Username: "gitlab:user:alice",
			Groups:   []string{"gitlab:user", "gitlab:project_role:10:reporter", "gitlab:project_role:10:developer", "gitlab:group_role:11:owner"},
			Extra: extras("agent.gitlab.com/id", "7", "agent.gitlab.com/username", "alice",
				"agent.gitlab.com/access_type", "session_cookie", "agent.gitlab.com/config_project_id", "3"),
		}, 0},
		"as nobody": {gitlabapi.ProxyAccessAs{}, nil, 502},
		"as both":   {gitlabapi.ProxyAccessAs{Agent: &struct{}{}, User: &gitlabapi.UserGrants{}}, nil, 502},
	} {
		t.Run(name, func(t *testing.T) {
			user.AccessAs = row.as
			got, err := userImpersonation(user, bySession)
			if row.code != 0 {
				refusedWith(t, err, row.code)
				return
			}
			require.NoError(t, err)
			equal(t, row.want, got)
		})
	}
	_, err := userImpersonation(gitlabapi.ProxyUser{AccessAs: gitlabapi.ProxyAccessAs{User: &gitlabapi.UserGrants{}}}, byToken)
	refusedWith(t, err, 502) // who has no name is nobody
}

func TestJobImpersonation_IsGitLabs(t *testing.T) {
	job := gitlabapi.AllowedAgents{
		Job: gitlabapi.Numbered{ID: 1}, Pipeline: gitlabapi.Numbered{ID: 2}, User: gitlabapi.User{ID: 5, Username: "alice"},
		Project: gitlabapi.JobProject{ID: 4, Groups: []gitlabapi.Numbered{{ID: 8}, {ID: 9}}},
	}
	inProduction := job
	inProduction.Environment = &gitlabapi.Environment{Slug: "prod", Tier: "production"}
	always := []string{
		"agent.gitlab.com/id", "7", "agent.gitlab.com/config_project_id", "3", "agent.gitlab.com/project_id", "4",
		"agent.gitlab.com/ci_pipeline_id", "2", "agent.gitlab.com/ci_job_id", "1", "agent.gitlab.com/username", "alice",
	}
	for name, row := range map[string]struct {
		job           gitlabapi.AllowedAgents
		configuration string
		want          *agentrpc.Impersonation
		code          int
	}{
		"nothing is said": {job, ``, nil, 0},
		"null":            {job, `null`, nil, 0},
		"no access_as":    {job, `{"id":"a/b","default_namespace":"x","something_new":1}`, nil, 0},
		"as the agent":    {job, `{"id":"a/b","access_as":{"agent":{}}}`, nil, 0},
		"as the job": {job, `{"access_as":{"ci_job":{}}}`, &agentrpc.Impersonation{
			Username: "gitlab:ci_job:1", Groups: []string{"gitlab:ci_job", "gitlab:group:8", "gitlab:group:9", "gitlab:project:4"}, Extra: extras(always...),
		}, 0},
		"as the job in an environment": {inProduction, `{"access_as":{"ci_job":{}}}`, &agentrpc.Impersonation{
			Username: "gitlab:ci_job:1",
			Groups: []string{
				"gitlab:ci_job", "gitlab:group:8", "gitlab:group_env_tier:8:production", "gitlab:group:9", "gitlab:group_env_tier:9:production",
				"gitlab:project:4", "gitlab:project_env:4:prod", "gitlab:project_env_tier:4:production",
			},
			Extra: extras(append(always, "agent.gitlab.com/environment_slug", "prod", "agent.gitlab.com/environment_tier", "production")...),
		}, 0},
		"as a static identity": {
			job, `{"access_as":{"impersonate":{"username":"u","uid":"1","groups":["g","h"],"extra":[{"key":"k","val":["a","b"]}]}}}`,
			&agentrpc.Impersonation{
				Username: "u", Uid: "1", Groups: []string{"g", "h"}, Extra: []*agentrpc.ImpersonationExtra{{Key: "k", Values: []string{"a", "b"}}},
			}, 0,
		},
		"as somebody without a name":     {job, `{"access_as":{"impersonate":{"groups":["g"]}}}`, nil, 403},
		"as what only a newer kas knows": {job, `{"access_as":{"ci_user":{}}}`, nil, 403},
		"as nothing at all":              {job, `{"access_as":{}}`, nil, 403},
		"what is not JSON":               {job, `{`, nil, 502},
	} {
		t.Run(name, func(t *testing.T) {
			agent := gitlabapi.AllowedAgent{ID: 7, ConfigProject: gitlabapi.Numbered{ID: 3}, Configuration: json.RawMessage(row.configuration)}
			got, err := jobImpersonation(row.job, agent)
			if row.code != 0 {
				refusedWith(t, err, row.code)
				return
			}
			require.NoError(t, err)
			equal(t, row.want, got)
		})
	}
}

func TestMerge_NobodyBecomesAThird(t *testing.T) {
	alice := &agentrpc.Impersonation{Username: "gitlab:user:alice"}
	for name, row := range map[string]struct {
		granted *agentrpc.Impersonation
		headers http.Header
		want    *agentrpc.Impersonation
		code    int
	}{
		"as the agent":              {nil, http.Header{}, nil, 0},
		"as RoR says":               {alice, http.Header{"Accept": {"x"}}, alice, 0},
		"the agent, as another one": {nil, http.Header{"Impersonate-User": {"bob"}}, &agentrpc.Impersonation{Username: "bob"}, 0},
		"with everything": {nil, http.Header{
			"Impersonate-User": {"bob"}, "Impersonate-Uid": {"1"}, "Impersonate-Group": {"g", "h"}, "Impersonate-Extra-A%2fb": {"c", "d"},
		}, &agentrpc.Impersonation{
			Username: "bob", Uid: "1", Groups: []string{"g", "h"}, Extra: []*agentrpc.ImpersonationExtra{{Key: "a/b", Values: []string{"c", "d"}}},
		}, 0},
		"one that RoR names, as another one":       {alice, http.Header{"Impersonate-User": {"bob"}}, nil, 400},
		"one that RoR names, with a further group": {alice, http.Header{"Impersonate-Group": {"system:masters"}}, nil, 400},
		"groups of nobody":                         {nil, http.Header{"Impersonate-Group": {"g"}}, nil, 400},
		"an empty user":                            {nil, http.Header{"Impersonate-User": {""}}, nil, 400},
		"two users":                                {nil, http.Header{"Impersonate-User": {"a", "b"}}, nil, 400},
		"an extra without a name":                  {nil, http.Header{"Impersonate-User": {"a"}, "Impersonate-Extra-": {"b"}}, nil, 400},
		"an extra that cannot be unescaped":        {nil, http.Header{"Impersonate-User": {"a"}, "Impersonate-Extra-%zz": {"b"}}, nil, 400},
		"what is not a header of Kubernetes":       {nil, http.Header{"Impersonate-User": {"a"}, "Impersonate-Everybody": {"b"}}, nil, 400},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := merge(row.granted, row.headers)
			if row.code != 0 {
				refusedWith(t, err, row.code)
				return
			}
			require.NoError(t, err)
			equal(t, row.want, got)
		})
	}
}
