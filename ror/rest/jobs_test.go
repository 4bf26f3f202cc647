package rest_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/version"
	"github.com/kas-agentk/kas/ror/registry"
)

func TestJobs_AreStartedAndFinishedByDevelopers(t *testing.T) {
	h := newHouse(t)
	h.must("root", "POST", "/projects", `{"path":"app"}`)
	h.must("root", "POST", "/projects", `{"path":"other"}`)
	const jobs = "/projects/root%2Fapp/jobs"
	h.must("root", "POST", "/projects/1/members", `{"user_id":2,"access_level":20}`)
	for _, path := range []string{jobs, jobs + "/1/finish"} {
		code, _ := h.do("ada", "POST", path, `{"ref":"main"}`)
		require.Equal(t, http.StatusForbidden, code, "a reporter may not")
	}
	h.must("root", "POST", "/projects/1/members", `{"user_id":2,"access_level":30}`)
	code, answer := h.do("ada", "POST", jobs, `{"environment":"prod"}`)
	require.Equal(t, http.StatusBadRequest, code)
	require.JSONEq(t, `{"message":"ref must be the name of a branch or tag"}`, answer)

	started := h.must("ada", "POST", jobs, `{"ref":"main","environment":"prod","tier":"staging"}`)
	var token struct {
		Token string `json:"token"`
	}
	require.NoError(t, json.Unmarshal([]byte(started), &token))
	job, err := h.reg.JobByToken(t.Context(), token.Token)
	require.NoError(t, err)
	require.Equal(t, "ada", job.User.Username)
	const rest = `"id":1,"ref":"main","created_at":"2026-11-22T10:00:00.000Z","expires_at":"2026-11-22T11:00:00.000Z","user":{"id":2,"username":"ada","name":"ada"},
		"environment":{"name":"prod","slug":"prod","tier":"staging"}`
	const running = `{` + rest + `,"status":"running","finished_at":null,"pipeline":{"id":1,"project_id":1,"ref":"main","status":"running"}}`
	const finished = `{` + rest + `,"status":"success","finished_at":"2026-11-22T10:00:00.000Z","pipeline":{"id":1,"project_id":1,"ref":"main","status":"success"}}`
	require.JSONEq(t, "["+running+"]", h.must("ada", "GET", jobs, ""), "without the token")
	code, _ = h.do("root", "POST", "/projects/2/jobs/1/finish", "")
	require.Equal(t, http.StatusNotFound, code, "a job is its project's")
	require.JSONEq(t, finished, h.must("ada", "POST", jobs+"/1/finish", ""))
	_, err = h.reg.JobByToken(t.Context(), token.Token)
	require.ErrorIs(t, err, registry.ErrUnauthorized)
}

func TestMetadata_TellsWhereKasIs(t *testing.T) {
	h := newHouse(t)
	var m struct {
		Version string          `json:"version"`
		Kas     json.RawMessage `json:"kas"`
	}
	for _, path := range []string{"/metadata", "/version"} {
		require.NoError(t, json.Unmarshal([]byte(h.must("ada", "GET", path, "")), &m))
		require.Equal(t, version.Version, m.Version)
		require.JSONEq(t, `{"enabled":true,"externalUrl":"grpcs://kas","externalK8sProxyUrl":"https://kas/k8s-proxy/","externalK8sProxyCa":"PEM","version":"`+version.Version+`"}`, string(m.Kas))
	}
	code, _ := h.do("nobody", "GET", "/metadata", "")
	require.Equal(t, http.StatusUnauthorized, code)
}

func TestOwnTokens_AreForTheProxyOnly(t *testing.T) {
	h := newHouse(t)
	const own = "/user/personal_access_tokens"
	for body, message := range map[string]string{
		`{"name":"x","scopes":["api"]}`:             "scopes does not have a valid value: only k8s_proxy",
		`{"name":"x","scopes":["k8s_proxy","api"]}`: "scopes does not have a valid value: only k8s_proxy",
		`{"name":"x"}`:             "scopes does not have a valid value: only k8s_proxy",
		`{"scopes":["k8s_proxy"]}`: "name can't be blank",
		`{"name":"x","scopes":["k8s_proxy"],"expires_at":"1 day from now"}`: "expires_at is invalid: want YYYY-MM-DD",
	} {
		code, answer := h.do("ada", "POST", own, body)
		require.Equal(t, http.StatusBadRequest, code, body)
		require.JSONEq(t, `{"message":"`+message+`"}`, answer)
	}
	var made struct {
		Token     string `json:"token"`
		ExpiresAt string `json:"expires_at"`
		UserID    int64  `json:"user_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(h.must("ada", "POST", own, `{"name":"kubectl","scopes":["k8s_proxy"]}`)), &made))
	require.Equal(t, "2026-11-23", made.ExpiresAt, "at the end of the day")
	require.EqualValues(t, 2, made.UserID)

	h.tokens["proxy"] = made.Token
	shown := h.must("proxy", "GET", "/personal_access_tokens/self", "")
	require.JSONEq(t, `{"id":3,"name":"kubectl","revoked":false,"created_at":"2026-11-22T10:00:00.000Z","scopes":["k8s_proxy"],"user_id":2,
		"last_used_at":null,"active":true,"expires_at":"2026-11-23"}`, shown)
	for _, path := range []string{"/user", "/projects", "/metadata"} {
		code, _ := h.do("proxy", "GET", path, "")
		require.Equal(t, http.StatusForbidden, code, path)
	}
	code, _ := h.do("proxy", "POST", own, `{"name":"more","scopes":["k8s_proxy"],"expires_at":"2030-01-01"}`)
	require.Equal(t, http.StatusForbidden, code, "it begets no others")

	code, answer := h.do("proxy", "DELETE", "/personal_access_tokens/self", "")
	require.Equal(t, http.StatusNoContent, code, answer)
	code, _ = h.do("proxy", "GET", "/personal_access_tokens/self", "")
	require.Equal(t, http.StatusUnauthorized, code, "it is revoked")
}
