package proxy

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/api/agentrpc"
)

func TestToAgent_TellsNothingThatIsNotItsBusiness(t *testing.T) {
	for name, row := range map[string]struct {
		in   http.Header
		want map[string][]string
	}{
		"what is for the API server": {
			http.Header{"Accept": {"application/json"}, "Content-Type": {"a"}, "User-Agent": {"kubectl"}, "Kubectl-Command": {"get"}, "Warning": {"a", "b"}},
			map[string][]string{"Accept": {"application/json"}, "Content-Type": {"a"}, "User-Agent": {"kubectl"}, "Kubectl-Command": {"get"}, "Warning": {"a", "b"}},
		},
		"credentials": {http.Header{
			"Authorization": {"Bearer pat:7:good"}, "Cookie": {"_gitlab_kas=s"}, "X-Csrf-Token": {"c"}, "Gitlab-Agent-Id": {"7"},
			"Gitlab-Anything": {"x"}, "Private-Token": {"p"}, "Job-Token": {"j"}, "Proxy-Authorization": {"Basic x"},
		}, nil},
		"who asks": {http.Header{
			"Impersonate-User": {"root"}, "Impersonate-Group": {"system:masters"}, "Impersonate-Extra-X": {"y"}, "Impersonate-Uid": {"1"},
			"X-Remote-User": {"root"}, "X-Remote-Group": {"system:masters"}, "X-Remote-Extra-X": {"y"},
		}, nil},
		"where it comes from": {http.Header{
			"Origin": {allowedOrigin}, "Referer": {allowedOrigin + "/secret"}, "Forwarded": {"for=1"}, "Via": {"x"}, "X-Real-Ip": {"1"},
			"X-Forwarded-For": {"1.2.3.4"}, "X-Forwarded-Proto": {"http"}, "Access-Control-Request-Method": {"GET"},
		}, nil},
		"what is about the connection": {http.Header{
			"Connection": {"keep-alive, X-Hop", "upgrade,x-other"}, "X-Hop": {"1"}, "X-Other": {"2"}, "Keep-Alive": {"5"}, "Te": {"trailers"},
			"Trailer": {"X"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"websocket"}, "Proxy-Connection": {"x"}, "Http2-Settings": {"x"},
			"Content-Length": {"3"}, "Expect": {"100-continue"}, "X-End": {"3"},
		}, map[string][]string{"X-End": {"3"}}},
		"subprotocols": {
			http.Header{"Sec-Websocket-Protocol": {bearerProtocol + "eA, v5.channel.k8s.io", "v4.channel.k8s.io"}, "Sec-Websocket-Key": {"k"}},
			map[string][]string{"Sec-Websocket-Protocol": {"v5.channel.k8s.io, v4.channel.k8s.io"}, "Sec-Websocket-Key": {"k"}},
		},
		"a credential as the only subprotocol": {http.Header{"Sec-Websocket-Protocol": {bearerProtocol + "eA"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got map[string][]string
			for _, one := range toAgent(row.in) {
				if got == nil {
					got = map[string][]string{}
				}
				got[one.GetName()] = one.GetValues()
			}
			require.Equal(t, row.want, got)
		})
	}
}

func TestFromAgent_TouchesNotKassOrigin(t *testing.T) {
	s := &Server{prefix: "/k8s-proxy"}
	for name, row := range map[string]struct {
		name, value string
		want        string // empty: it does not come through
	}{
		"what it is":                        {"Content-Type", "application/json", "application/json"},
		"in any case":                       {"content-type", "a/b", "a/b"},
		"its length":                        {"Content-Length", "5", "5"},
		"a cookie":                          {"Set-Cookie", "_gitlab_kas=x", ""},
		"sharing with pages":                {"Access-Control-Allow-Origin", "*", ""},
		"that all is to be forgotten":       {"Clear-Site-Data", "*", ""},
		"that kas refused":                  {unauthorizedHeader, "true", ""},
		"the connection":                    {"Connection", "close", ""},
		"how it is cut":                     {"Transfer-Encoding", "chunked", ""},
		"a name that is none":               {"a b", "x", ""},
		"a value with a line of its own":    {"X-A", "b\r\nSet-Cookie: c", ""},
		"where else to go, below the proxy": {"Location", "/api/v1/x", "/k8s-proxy/api/v1/x"},
		"where else to go":                  {"Location", "https://example.com/", "https://example.com/"},
		"another host":                      {"Location", "//example.com/", "//example.com/"},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			s.fromAgent(h, []*agentrpc.HttpHeader{{Name: row.name, Values: []string{row.value}}})
			if row.want == "" {
				require.Empty(t, h)
				return
			}
			require.Equal(t, row.want, h.Get(row.name))
		})
	}
}

func TestUpgradeOf(t *testing.T) {
	for name, row := range map[string]struct {
		connection, upgrade string
		major               int
		want                string
	}{
		"a WebSocket":         {"Upgrade", "websocket", 1, "websocket"},
		"in any case":         {"keep-alive, upgrade", "WebSocket", 1, "websocket"},
		"SPDY":                {"Upgrade", "SPDY/3.1", 1, "SPDY/3.1"},
		"HTTP/2 in the clear": {"Upgrade, HTTP2-Settings", "h2c", 1, ""},
		"not meant":           {"keep-alive", "websocket", 1, ""},
		"over HTTP/2":         {"Upgrade", "websocket", 2, ""},
		"nothing":             {"Upgrade", "", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.ProtoMajor = row.major
			r.Header.Set("Connection", row.connection)
			r.Header.Set("Upgrade", row.upgrade)
			require.Equal(t, row.want, upgradeOf(r))
		})
	}
}
