package kubeapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// mirror answers with the headers that it is sent.
func mirror(w http.ResponseWriter, r *http.Request) {
	r.Header.Set("Host", r.Host)
	_ = json.NewEncoder(w).Encode(r.Header)
}

// seen makes a request with these headers, and returns those that the API server sees.
func (r *rig) seen(who *agentrpc.Impersonation, given http.Header) http.Header {
	r.t.Helper()
	head := &agentrpc.HttpRequestHead{Impersonation: who}
	for name, values := range given {
		head.Headers = append(head.Headers, headers(name, values...)...)
	}
	_, _, body, err := r.get(head)
	require.NoError(r.t, err)
	got := http.Header{}
	require.NoError(r.t, json.Unmarshal([]byte(body), &got))
	return got
}

func TestRequestHeader_BringsNobodysIdentityButTheAgents(t *testing.T) {
	for name, options := range map[string][]option{"HTTP/1.1": nil, "HTTP/2 over TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, mirror, options...)
			got := r.seen(nil, http.Header{
				"authorization": {"Bearer theirs"}, "AUTHORIZATION": {"Basic eA=="}, "Cookie": {"_gitlab_kas=x"}, "Private-Token": {"x"}, "job-token": {"x"}, "x-csrf-token": {"x"},
				"Impersonate-User": {"admin"}, "impersonate-group": {"system:masters"}, "Impersonate-Extra-X": {"y"}, "Impersonate_User": {"admin"},
				"X-Remote-User": {"admin"}, "x-remote-group": {"system:masters"}, "X-Remote-Extra-A": {"b"},
				"Host": {"evil"}, "Content-Length": {"7"}, "Transfer-Encoding": {"chunked"}, "Connection": {"close, X-Hop, upgrade"}, "X-Hop": {"x"}, "Keep-Alive": {"x"},
				"Proxy-Authorization": {"x"}, "Proxy-Connection": {"x"}, "TE": {"trailers"}, "Trailer": {"x"}, "Upgrade": {"h2c"}, "HTTP2-Settings": {"x"}, "Expect": {"100-continue"},
				"Accept": {"application/json;as=Table", "application/json"}, "X-Mine": {"a", "b"},
			})
			require.Equal(t, http.Header{
				"Authorization": {"Bearer agents-own"}, "User-Agent": {"agentk/test"}, "Host": {r.server.base.Host},
				"Accept": {"application/json;as=Table", "application/json"}, "X-Mine": {"a", "b"},
			}, got)
		})
	}
}

func TestRequestHeader_TokensOfWebSocketsAreTakenOut(t *testing.T) {
	r := start(t, mirror)
	got := r.seen(nil, http.Header{"Sec-WebSocket-Protocol": {"v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.eA", "BASE64URL.bearer.authorization.k8s.io.eA,v4.channel.k8s.io"}})
	require.Equal(t, "v5.channel.k8s.io, v4.channel.k8s.io", got.Get("Sec-WebSocket-Protocol"))
	got = r.seen(nil, http.Header{"Sec-WebSocket-Protocol": {"base64url.bearer.authorization.k8s.io.eA"}})
	require.Empty(t, got.Values("Sec-WebSocket-Protocol"))
}

func TestImpersonate_SaysInWhoseName(t *testing.T) {
	for name, options := range map[string][]option{"HTTP/1.1": nil, "HTTP/2 over TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, mirror, options...)
			got := r.seen(&agentrpc.Impersonation{
				Username: "gitlab:ci_job:1", Uid: "1", Groups: []string{"gitlab:ci_job", "gitlab:group:2"},
				Extra: []*agentrpc.ImpersonationExtra{{Key: "agent.gitlab.com/project_id%", Values: []string{"3", "4"}}, {Key: "a", Values: nil}},
			}, http.Header{"Impersonate-User": {"admin"}, "Impersonate-Group": {"system:masters"}, "Impersonate-Uid": {"0"}})
			require.Equal(t, "gitlab:ci_job:1", got.Get("Impersonate-User"))
			require.Equal(t, "1", got.Get("Impersonate-Uid"))
			require.Equal(t, []string{"gitlab:ci_job", "gitlab:group:2"}, got.Values("Impersonate-Group"))
			require.Equal(t, []string{"3", "4"}, got.Values("Impersonate-Extra-Agent.gitlab.com%2fproject_id%25"))
			require.Equal(t, "Bearer agents-own", got.Get("Authorization"))
		})
	}
}

func TestImpersonate_NotWhereAgentkItselfDoes(t *testing.T) {
	r := start(t, mirror, func(_ *httptest.Server, cfg *rest.Config) { cfg.Impersonate.UserName = "limited" })
	_, _, _, err := r.get(&agentrpc.HttpRequestHead{Impersonation: &agentrpc.Impersonation{Username: "other"}})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.ErrorContains(t, err, `agentk runs with --as, and cannot act in the name of "other"`)
	require.Equal(t, "limited", r.seen(nil, nil).Get("Impersonate-User"))
}

func TestResponseHeader_ConcernsTheClientOnly(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, _ *http.Request) {
		for name, value := range map[string]string{
			"Set-Cookie": "a=b", "Keep-Alive": "x", "Proxy-Authenticate": "x", "X-Hop": "x", "Connection": "X-Hop",
			"Content-Encoding": "gzip", "Audit-Id": "7", "Warning": `299 - "d` + "\xe9" + `pr"`,
		} {
			w.Header().Set(name, value)
		}
		w.Header().Add("Www-Authenticate", "a")
		w.Header().Add("Www-Authenticate", "b")
		_, _ = w.Write([]byte("not really gzip"))
	})
	_, header, body, err := r.get(&agentrpc.HttpRequestHead{Headers: headers("Accept-Encoding", "gzip")})
	require.NoError(t, err)
	require.Equal(t, "not really gzip", body, "what is compressed is passed on as it is")
	require.NotEmpty(t, header.Get("Date"))
	header.Del("Date")
	header.Del("Content-Type")
	require.Equal(t, http.Header{
		"Content-Encoding": {"gzip"}, "Audit-Id": {"7"}, "Warning": {`299 - "d?pr"`}, "Www-Authenticate": {"a", "b"}, "Content-Length": {"15"},
	}, header)
}
