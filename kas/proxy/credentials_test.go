package proxy

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCredentialOf(t *testing.T) {
	encoded := bearerProtocol + base64.RawURLEncoding.EncodeToString([]byte("pat:7:good"))
	for name, row := range map[string]struct {
		url     string
		headers []string
		want    credential
		code    int
	}{
		"a personal access token":                {"", []string{"Authorization", "Bearer pat:7:glpat-x:y"}, credential{byToken, 7, "glpat-x:y", ""}, 0},
		"a CI job token":                         {"", []string{"Authorization", "bearer ci:7:t"}, credential{byJob, 7, "t", ""}, 0},
		"a session":                              {"", []string{"Cookie", "a=b; _gitlab_kas=se%2Bss", agentHeader, "7", csrfHeader, "c"}, credential{bySession, 7, "se+ss", "c"}, 0},
		"a session of a WebSocket":               {"?gitlab-agent-id=7&gitlab-csrf-token=c%2F", []string{"Cookie", "_gitlab_kas=s"}, credential{bySession, 7, "s", "c/"}, 0},
		"a token as a subprotocol":               {"", []string{"Sec-WebSocket-Protocol", "v4.channel.k8s.io, " + encoded}, credential{byToken, 7, "good", ""}, 0},
		"nothing":                                {"", nil, credential{}, 401},
		"another cookie":                         {"", []string{"Cookie", "a=b", agentHeader, "7", csrfHeader, "c"}, credential{}, 401},
		"another scheme":                         {"", []string{"Authorization", "Basic cGF0Ojc6Z29vZA=="}, credential{}, 401},
		"another kind of token":                  {"", []string{"Authorization", "Bearer oidc:7:x"}, credential{}, 401},
		"a bare token":                           {"", []string{"Authorization", "Bearer glpat-x"}, credential{}, 401},
		"an agent that is no number":             {"", []string{"Authorization", "Bearer pat:seven:x"}, credential{}, 401},
		"an agent below one":                     {"", []string{"Authorization", "Bearer pat:0:x"}, credential{}, 401},
		"an empty token":                         {"", []string{"Authorization", "Bearer pat:7:"}, credential{}, 401},
		"two headers":                            {"", []string{"Authorization", "Bearer pat:7:a", "Authorization", "Bearer pat:7:a"}, credential{}, 400},
		"a token and a session":                  {"", []string{"Authorization", "Bearer pat:7:a", "Cookie", "_gitlab_kas=s", agentHeader, "7", csrfHeader, "c"}, credential{}, 400},
		"two sessions":                           {"", []string{"Cookie", "_gitlab_kas=s; _gitlab_kas=t", agentHeader, "7", csrfHeader, "c"}, credential{}, 400},
		"a header and a subprotocol":             {"", []string{"Authorization", "Bearer pat:7:a", "Sec-WebSocket-Protocol", encoded}, credential{}, 400},
		"a subprotocol that is not base64url":    {"", []string{"Sec-WebSocket-Protocol", bearerProtocol + "++"}, credential{}, 400},
		"a session without an agent":             {"", []string{"Cookie", "_gitlab_kas=s", csrfHeader, "c"}, credential{}, 401},
		"a session without a CSRF token":         {"", []string{"Cookie", "_gitlab_kas=s", agentHeader, "7"}, credential{}, 401},
		"a session with an empty CSRF token":     {"?gitlab-csrf-token=", []string{"Cookie", "_gitlab_kas=s", agentHeader, "7"}, credential{}, 401},
		"a session that says the agent twice":    {"?gitlab-agent-id=7", []string{"Cookie", "_gitlab_kas=s", agentHeader, "7", csrfHeader, "c"}, credential{}, 401},
		"an empty session":                       {"", []string{"Cookie", "_gitlab_kas=", agentHeader, "7", csrfHeader, "c"}, credential{}, 401},
		"a session that cannot be unescaped":     {"", []string{"Cookie", "_gitlab_kas=%zz", agentHeader, "7", csrfHeader, "c"}, credential{}, 401},
		"a session's agent that is not a number": {"", []string{"Cookie", "_gitlab_kas=s", agentHeader, "x", csrfHeader, "c"}, credential{}, 401},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/"+row.url, nil)
			for i := 0; i < len(row.headers); i += 2 {
				r.Header.Add(row.headers[i], row.headers[i+1])
			}
			got, err := credentialOf(r)
			if row.code == 0 {
				require.NoError(t, err)
				require.Equal(t, row.want, got)
				return
			}
			var why *refusal
			require.ErrorAs(t, err, &why)
			require.Equal(t, row.code, why.code, why.message)
		})
	}
}

func TestWithoutCredentials_LeavesTheRestAsItIs(t *testing.T) {
	for query, want := range map[string]string{
		"":                        "",
		"a=b&c":                   "a=b&c",
		"labelSelector=a%3Db&a=+": "labelSelector=a%3Db&a=+",
		"gitlab-agent-id=7&b=%2f": "b=%2f",
		"a=1&gitlab-csrf-token=x&gitlab-agent-id=7":  "a=1",
		"gitlab%2Dcsrf%2dtoken=x&container=gitlab&c": "container=gitlab&c",
		"gitlab-csrf-tokens=1&%zz=2":                 "gitlab-csrf-tokens=1&%zz=2",
	} {
		require.Equal(t, want, withoutCredentials(query), query)
	}
}
