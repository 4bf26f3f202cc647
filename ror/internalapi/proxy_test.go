package internalapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/ror/registry"
)

func TestAuthorizeProxyUser_ByUserAccessOfTheConfiguration(t *testing.T) {
	h := newHouse(t)
	developer, reporter := h.addUser("developer", false), h.addUser("reporter", false)
	app := h.addProject("root", "app", registry.Private)
	for user, level := range map[registry.User]registry.AccessLevel{developer: registry.Developer, reporter: registry.Reporter} {
		_, err := h.reg.SetMember(t.Context(), app.ID, user.ID, level)
		require.NoError(t, err)
	}
	token := func(u registry.User, scope string) string {
		_, token, err := h.reg.CreatePersonalToken(t.Context(), registry.NewPersonalToken{UserID: u.ID, Name: "t", Scopes: []string{scope}})
		require.NoError(t, err)
		return token
	}
	session, err := h.reg.CreateSession(t.Context(), developer.ID)
	require.NoError(t, err)
	byToken := func(token string) string {
		return fmt.Sprintf(`{"agent_id":1,"access_type":"personal_access_token","access_key":%q}`, token)
	}
	byCookie := func(csrf string) string {
		return fmt.Sprintf(`{"agent_id":1,"access_type":"session_cookie","access_key":%q,"csrf_token":%q}`, session.KasKey, csrf)
	}
	const (
		asAgent = `{"user_access":{"access_as":{"agent":{}},"projects":[{"id":"root/app"}]}}`
		asUser  = `{"user_access":{"access_as":{"user":{}},"projects":[{"id":"root/app"},{"id":"root/missing"}],"groups":[{"id":"root"}]}}`
		who     = `{"agent":{"id":1,"config_project":{"id":1}},"user":{"id":2,"username":"developer"},"access_as":%s}`
	)
	proxyToken := token(developer, registry.ScopeK8sProxy)
	for _, row := range []struct {
		name   string
		config string
		body   string
		status int
		answer string
	}{
		{"a developer of a project named, as the agent", asAgent, byToken(proxyToken), 200, fmt.Sprintf(who, `{"agent":{}}`)},
		{"the same as the user", asUser, byToken(proxyToken), 200,
			fmt.Sprintf(who, `{"user":{"projects":[{"id":2,"roles":["reporter","developer"]}],"groups":[]}}`)},
		{"the same by the browser's cookie", asAgent, byCookie(session.CSRF), 200, fmt.Sprintf(who, `{"agent":{}}`)},
		{"a cookie without its CSRF token", asAgent, byCookie(""), 401, ""},
		{"a token that is unknown", asAgent, byToken("glpat-unknown"), 401, ""},
		{"a token without the scope", asAgent, byToken(token(developer, registry.ScopeAPI)), 403, ""},
		{"a reporter", asAgent, byToken(token(reporter, registry.ScopeK8sProxy)), 403, ""},
		{"a configuration without user_access", `{}`, byToken(proxyToken), 403, ""},
		{"an agent that is not there", asAgent, fmt.Sprintf(`{"agent_id":9,"access_type":"personal_access_token","access_key":%q}`, proxyToken), 404, ""},
		{"another type of access", asAgent, `{"agent_id":1,"access_type":"magic"}`, 400, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := h.in(t)
			config := fmt.Sprintf(`{"agent_id":1,"agent_config":%s}`, row.config)
			require.Equal(t, http.StatusNoContent, h.do(h.kas("POST", gitlabapi.PathAgentConfiguration, "", config), nil))
			var answer json.RawMessage
			require.Equal(t, row.status, h.do(h.kas("POST", gitlabapi.PathAuthorizeProxyUser, "", row.body), &answer), "%s", answer)
			if row.answer != "" {
				require.JSONEq(t, row.answer, string(answer))
			}
		})
	}
}

func TestAgentConfiguration_RefusesWhatIsNone(t *testing.T) {
	h := newHouse(t)
	for body, status := range map[string]int{
		`{"agent_id":1}`: http.StatusBadRequest,
		`{"agent_id":1,"agent_config":{"gitops":3}}`:  http.StatusBadRequest,
		`{"agent_id":9,"agent_config":{}}`:            http.StatusNotFound,
		`{"agent_id":1,"agent_config":{"new_key":3}}`: http.StatusNoContent,
	} {
		require.Equal(t, status, h.do(h.kas("POST", gitlabapi.PathAgentConfiguration, "", body), nil), body)
	}
}
