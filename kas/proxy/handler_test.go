package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/api/agentrpc"
)

func TestServer_PathsAreTheClusters(t *testing.T) {
	heads := make(chan *agentrpc.HttpRequestHead, 1)
	h := start(t, noting(heads))
	for path, want := range map[string]string{
		"/":                                "/",
		"/api/v1/pods?watch=false&limit=5": "/api/v1/pods?watch=false&limit=5",
		"/api/v1/namespaces/a/configmaps/x%2Fy%20z?pretty": "/api/v1/namespaces/a/configmaps/x%2Fy%20z?pretty",
		"/apis?gitlab-agent-id=7&a=%2F":                    "/apis?a=%2F",
	} {
		response, body := h.get(path)
		require.Equal(t, 200, response.StatusCode, body)
		require.Equal(t, "{}", body)
		require.Equal(t, want, (<-heads).GetUrl())
	}
	base := h.url
	for _, elsewhere := range []string{"", "x/api", "/../api"} {
		h.url = strings.TrimSuffix(base, "/k8s-proxy") + map[string]string{"": "/", "x/api": "/k8s-proxyx/api", "/../api": "/api"}[elsewhere]
		response, body := h.get("")
		refused(t, response, body, 404, "begin with /k8s-proxy/ here")
	}
	h.url = base
	require.InDelta(t, 3.0, h.value("kas_proxy_requests_total", "none", "404"), 0)
	require.InDelta(t, 4.0, h.value("kas_proxy_requests_total", "personal_access_token", "200"), 0)
}

func TestServer_ThePrefixIsAsConfigured(t *testing.T) {
	for prefix, base := range map[string]string{"/": "", "/-/kubernetes-agent/k8s-proxy/": "/-/kubernetes-agent/k8s-proxy"} {
		heads := make(chan *agentrpc.HttpRequestHead, 1)
		h := start(t, noting(heads), func(c *Config) { c.URLPathPrefix = prefix })
		h.url = "http://" + h.address + base
		h.get("/api")
		require.Equal(t, "/api", (<-heads).GetUrl())
	}
}

func TestServer_PagesOfAllowedOriginsOnly(t *testing.T) {
	h := start(t, answering(200, "{}"))
	session := []string{"Authorization", "", "Cookie", "_gitlab_kas=session", agentHeader, "7", csrfHeader, "csrf"}
	for name, row := range map[string]struct {
		origin  string
		headers []string
		code    int
		shared  bool
	}{
		"the session of an allowed page":         {allowedOrigin, session, 200, true},
		"the session of a foreign page":          {"https://evil.example.com", session, 403, false},
		"the session of a page of the same name": {"http://gitlab.example.com", session, 403, false},
		"a session without a page":               {"", session, 200, false},
		"the token of an allowed page":           {allowedOrigin, nil, 200, true},
		"a token that a foreign page has":        {"null", nil, 200, false},
		"no credential of an allowed page":       {allowedOrigin, []string{"Authorization", ""}, 401, true},
	} {
		t.Run(name, func(t *testing.T) {
			headers := row.headers
			if row.origin != "" {
				headers = append(headers[:len(headers):len(headers)], "Origin", row.origin)
			}
			response, body := h.get("/api", headers...)
			require.Equal(t, row.code, response.StatusCode, body)
			require.Contains(t, response.Header.Values("Vary"), "Origin")
			if !row.shared {
				require.Empty(t, response.Header.Get("Access-Control-Allow-Origin"))
				return
			}
			require.Equal(t, row.origin, response.Header.Get("Access-Control-Allow-Origin"))
			require.Equal(t, "true", response.Header.Get("Access-Control-Allow-Credentials"))
		})
	}
	response, _ := h.get("/api", append(session[:len(session):len(session)], "Origin", allowedOrigin)...)
	require.Equal(t, "sandbox", response.Header.Get("Content-Security-Policy"), "what a cluster sends is no page of kas")
}

func TestServer_PreflightIsAnsweredWithoutCredentials(t *testing.T) {
	h := start(t, answering(200, "{}"))
	ask := func(origin string) *http.Request {
		return h.request(http.MethodOptions, "/api", nil, "Authorization", "", "Origin", origin,
			"Access-Control-Request-Method", "PATCH", "Access-Control-Request-Headers", "x-csrf-token, gitlab-agent-id")
	}
	response, _ := h.do(ask(allowedOrigin))
	require.Equal(t, 204, response.StatusCode)
	require.Equal(t, allowedOrigin, response.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "true", response.Header.Get("Access-Control-Allow-Credentials"))
	require.Equal(t, "x-csrf-token, gitlab-agent-id", response.Header.Get("Access-Control-Allow-Headers"))
	require.Contains(t, response.Header.Get("Access-Control-Allow-Methods"), "PATCH")
	require.Zero(t, h.ror.count())
	response, body := h.do(ask("https://evil.example.com"))
	refused(t, response, body, 403, "allowed_origins")
	require.Empty(t, response.Header.Get("Access-Control-Allow-Origin"))
	// Without what makes it a preflight it is a request like any other.
	response, _ = h.do(h.request(http.MethodOptions, "/api", nil))
	require.Equal(t, 200, response.StatusCode)
}

func TestServer_TooManyRequestsOfOnePerson(t *testing.T) {
	h := start(t, answering(200, "{}"))
	h.get("/")
	h.get("/", "Authorization", "", "Cookie", "_gitlab_kas=session", agentHeader, "7", csrfHeader, "csrf")
	h.get("/", "Authorization", "", "Authorization", "Bearer ci:7:job")
	h.limiter.mu.Lock()
	h.limiter.full = true
	keys := h.limiter.asked
	h.limiter.mu.Unlock()
	require.Len(t, keys, 3)
	require.Equal(t, keys[0], keys[1], "a person is one, whatever the credential")
	require.NotEqual(t, keys[0], keys[2], "a job is not who runs it")
	require.Len(t, keys[0], 32)
	response, body := h.get("/")
	refused(t, response, body, 429, "user_rate_limit")
	require.Equal(t, "2", response.Header.Get("Retry-After"))
	require.InDelta(t, 1.0, h.value("kas_proxy_requests_total", "personal_access_token", "429"), 0)
}
