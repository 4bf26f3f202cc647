package kas

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
)

func TestKubernetesAPI_IsThereWhenConfigured(t *testing.T) {
	if got := load(t, writeConfiguration(t, required)).GetAgent().GetKubernetesApi(); got != nil {
		t.Errorf("got %v though nobody wants one", got)
	}
	got := load(t, writeConfiguration(t, strings.Replace(required, "gitlab.example.com", "GitLab.example.com:443/gitlab", 1)+
		"agent: {kubernetes_api: {url_path_prefix: /x, allowed_agent_cache_error_ttl: 0s}}\n")).GetAgent().GetKubernetesApi()
	if got.GetListen().GetAddress() != "127.0.0.1:8154" || got.GetUrlPathPrefix() != "/x/" || got.GetUserRateLimit().GetBucketSize() != 1000 ||
		got.GetAllowedAgentCacheTtl().AsDuration() != time.Minute || got.GetAllowedAgentCacheErrorTtl().AsDuration() != 0 ||
		len(got.GetAllowedOrigins()) != 1 || got.GetAllowedOrigins()[0] != "https://gitlab.example.com" {
		t.Errorf("got %v", got)
	}
}

func TestKubernetesAPI_NamesTheMistake(t *testing.T) {
	for name, row := range map[string]struct{ settings, want string }{
		"a prefix that is no path":          {"url_path_prefix: k8s", `kas.yaml:4: agent.kubernetes_api.url_path_prefix: "k8s/" is not the path of a URL`},
		"a prefix with a query":             {`url_path_prefix: "/k8s?x="`, "agent.kubernetes_api.url_path_prefix"},
		"a prefix with an empty part":       {"url_path_prefix: //k8s/", "agent.kubernetes_api.url_path_prefix"},
		"an origin with a path":             {"allowed_origins: [https://example.com/]", `agent.kubernetes_api.allowed_origins: "https://example.com/" is not an origin`},
		"an origin that is any":             {`allowed_origins: ["*"]`, "agent.kubernetes_api.allowed_origins"},
		"an origin in capitals":             {"allowed_origins: [https://Example.com]", "agent.kubernetes_api.allowed_origins"},
		"a certificate without a key":       {"listen: {certificate_file: x}", "agent.kubernetes_api.listen: certificate_file and key_file go together"},
		"an age that connections have not":  {"listen: {max_connection_age: 1h}", "agent.kubernetes_api.listen.max_connection_age"},
		"a WebSocket where no agents come":  {"listen: {websocket: true}", "agent.kubernetes_api.listen.websocket: only agent.listen has it"},
		"a secret where there is none":      {"listen: {authentication_secret_file: x}", "agent.kubernetes_api.listen.authentication_secret_file"},
		"an answer that is believed for -1": {"allowed_agent_cache_ttl: -1s", "agent.kubernetes_api.allowed_agent_cache_ttl"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := LoadConfiguration(writeConfiguration(t, required+"agent: {kubernetes_api: {"+row.settings+"}}\n"))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got  %v\nwant …%s…", err, row.want)
			}
		})
	}
}

func TestKubernetesAPI_AsksTheAgentOverItsTunnel(t *testing.T) {
	kas := startEach(t, `{address: "127.0.0.1:0"}, kubernetes_api: {listen: {address: "127.0.0.1:0"}}`, `{address: "127.0.0.1:0"}`)
	stream, err := agentrpc.NewReverseTunnelClient(dial(t, kas.Agent)).Connect(bearing(t, "good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{
		AgentMeta: &agentrpc.AgentMeta{InstanceId: 1}, Services: []string{agentrpc.KubernetesApi_ServiceDesc.ServiceName},
	}}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		encoded, err := proto.Marshal(&agentrpc.HttpResponse{Head: &agentrpc.HttpResponseHead{Status: 201}, Data: []byte("ok")})
		if err == nil {
			err = answerOnce(stream, func(*agentrpc.TunnelRequest) *agentrpc.TunnelResponse {
				return &agentrpc.TunnelResponse{Messages: []*agentrpc.TunnelMessage{{Data: encoded}}}
			})
		}
		answered <- err
	}()
	get := func(token string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+kas.KubernetesAPI+"/k8s-proxy/version", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	if code, body := get("pat:7:x"); code != 201 || body != "ok" {
		t.Errorf("got %d, %s", code, body)
	}
	if code, body := get("nobody"); code != 401 || !strings.Contains(body, `"kind":"Status"`) {
		t.Errorf("got %d, %s", code, body)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := kas.stop(); err != nil {
		t.Error(err)
	}
}
