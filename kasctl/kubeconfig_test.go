package kasctl

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	clocktesting "k8s.io/utils/clock/testing"
)

const proxyURL = "https://kas.example.com/k8s-proxy/"

// proxyRoR is a RoR that knows of a proxy.
type proxyRoR struct {
	// metadata and scopes (of any token) that it answers with, in JSON.
	metadata, scopes string
	// mayCreate is whether a token may create others; made is what was asked for.
	mayCreate bool
	made      []string
}

func startProxyRoR(t *testing.T) *proxyRoR {
	t.Helper()
	r := &proxyRoR{
		metadata:  `{"version":"v1","kas":{"enabled":true,"externalUrl":"grpcs://kas.example.com","externalK8sProxyUrl":"` + proxyURL + `","version":"v1"}}`,
		scopes:    `["api","k8s_proxy"]`,
		mayCreate: true,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v4/cluster_agents", func(w http.ResponseWriter, _ *http.Request) {
		data, err := os.ReadFile(filepath.Join("testdata", "agents.json"))
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(data)
	})
	mux.HandleFunc("GET /api/v4/metadata", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, r.metadata) })
	mux.HandleFunc("GET /api/v4/personal_access_tokens/self", func(w http.ResponseWriter, req *http.Request) {
		scopes := r.scopes
		if req.Header.Get("PRIVATE-TOKEN") == "glpat-proxy" {
			scopes = `["k8s_proxy"]`
		}
		_, _ = io.WriteString(w, `{"id":1,"scopes":`+scopes+`}`)
	})
	mux.HandleFunc("POST /api/v4/user/personal_access_tokens", func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.made = append(r.made, string(body))
		if !r.mayCreate {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"message":"403 Forbidden - the token lacks the scope api"}`)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"id":2,"token":"glpat-new"}`)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	t.Setenv("ROR_URL", srv.URL)
	t.Setenv("ROR_TOKEN", "glpat-1")
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv(proxyCAEnv, "")
	return r
}

func TestKubeconfig_Shows(t *testing.T) {
	startProxyRoR(t)
	status, stdout, stderr := call(t, "kubeconfig", "demo/agents:sandbox")
	require.Zero(t, status, stderr)
	golden(t, "kubeconfig.golden", stdout)
	config, err := clientcmd.Load([]byte(stdout))
	require.NoError(t, err)
	// kubectl must make of it what the proxy expects.
	made, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	require.NoError(t, err)
	require.Equal(t, proxyURL, made.Host)
	require.Equal(t, "pat:1:glpat-1", made.BearerToken)
}

func TestKubeconfig_WritesAFileOfTheOwnersAlone(t *testing.T) {
	r := startProxyRoR(t)
	r.scopes = `["api"]`
	file := filepath.Join(t.TempDir(), "new")
	clk := clocktesting.NewFakeClock(time.Date(2026, 11, 22, 23, 59, 0, 0, time.UTC))
	args := []string{"kubeconfig", "production", "--create-token", "--output", file}
	status, stdout, stderr := callWith(t, t.Context(), clk, args...)
	require.Zero(t, status, stderr)
	require.Equal(t, file+": context demo-agents:production. Use it with: kubectl --kubeconfig "+file+"\n", stdout)
	require.Len(t, r.made, 1)
	require.JSONEq(t, `{"name":"kasctl kubeconfig","scopes":["k8s_proxy"],"expires_at":"2026-11-24"}`, r.made[0])
	requireToken(t, file, "demo-agents:production", "pat:2:glpat-new")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	status, _, stderr = callWith(t, t.Context(), clk, args...)
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "is there already: --force replaces it, --merge adds to it")
	require.Len(t, r.made, 1, "no token for nothing")
	require.NoError(t, os.Chmod(file, 0o644))
	status, _, stderr = callWith(t, t.Context(), clk, append(args, "--force", "--days=30")...)
	require.Zero(t, status, stderr)
	require.Contains(t, r.made[1], "2026-12-23")
	info, err = os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	entries, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing else is left")
}

func requireToken(t *testing.T, file, context, token string) *api.Config {
	t.Helper()
	config, err := clientcmd.LoadFromFile(file)
	require.NoError(t, err)
	require.Contains(t, config.Contexts, context)
	require.Equal(t, token, config.AuthInfos[config.Contexts[context].AuthInfo].Token)
	require.Equal(t, proxyURL, config.Clusters[config.Contexts[context].Cluster].Server)
	return config
}

func TestKubeconfig_MergesAndLeavesTheRest(t *testing.T) {
	startProxyRoR(t)
	file := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", file)
	own := api.NewConfig()
	own.Clusters["own"] = &api.Cluster{Server: "https://own.example.com"}
	own.Contexts["own"] = &api.Context{Cluster: "own", Namespace: "mine"}
	own.CurrentContext = "own"
	require.NoError(t, clientcmd.WriteToFile(*own, file))

	status, stdout, stderr := call(t, "kubeconfig", "production", "--merge", "--keep-context")
	require.Zero(t, status, stderr)
	require.Equal(t, file+": context demo-agents:production. Use it with: kubectl --context demo-agents:production\n", stdout)
	config := requireToken(t, file, "demo-agents:production", "pat:2:glpat-1")
	require.Equal(t, "own", config.CurrentContext)
	require.Equal(t, "mine", config.Contexts["own"].Namespace)

	// Again, as when a token has ended: what a person has set stays.
	config.Contexts["demo-agents:production"].Namespace = "web"
	require.NoError(t, clientcmd.WriteToFile(*config, file))
	status, stdout, stderr = call(t, "kubeconfig", "production", "--merge", "--create-token")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "kubectl, whose current context it is")
	require.Empty(t, stderr)
	config = requireToken(t, file, "demo-agents:production", "pat:2:glpat-new")
	require.Equal(t, "demo-agents:production", config.CurrentContext)
	require.Equal(t, "web", config.Contexts["demo-agents:production"].Namespace)

	// What goes by the name and is something else.
	require.NoError(t, os.Chmod(file, 0o644))
	status, _, stderr = call(t, "kubeconfig", "production", "--merge", "--proxy-url=https://other.example.com/k8s-proxy/")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "has another demo-agents:production: --force replaces it")
	status, _, stderr = call(t, "kubeconfig", "production", "--merge", "--force", "--proxy-url=https://other.example.com/k8s-proxy/")
	require.Zero(t, status, stderr)
	require.Contains(t, stderr, "mode 0644), which holds a token: chmod 600 "+file)
}

func TestKubeconfig_MergeMakesTheFile(t *testing.T) {
	startProxyRoR(t)
	file := filepath.Join(t.TempDir(), "folder", "config")
	status, _, stderr := call(t, "kubeconfig", "production", "--merge", "--output", file)
	require.Zero(t, status, stderr)
	requireToken(t, file, "demo-agents:production", "pat:2:glpat-1")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestKubeconfig_TrustsAPrivateAuthority(t *testing.T) {
	ror := startProxyRoR(t)
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"gitVersion": r.URL.Path + " " + r.Header.Get("Authorization")})
	}))
	defer proxy.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.crt")
	require.NoError(t, os.WriteFile(file, authority, 0o600))
	metadata := func(ca []byte) string {
		body, err := json.Marshal(map[string]any{"kas": map[string]any{
			"enabled": true, "externalK8sProxyUrl": proxy.URL + "/k8s-proxy/", "externalK8sProxyCa": string(ca),
		}})
		require.NoError(t, err)
		return string(body)
	}
	for _, row := range []struct {
		name string
		told []byte
		env  string
		args []string
	}{
		{"by flag", nil, "", []string{"--certificate-authority", file}},
		{"by environment", nil, file, nil},
		{"as RoR says", authority, "", nil},
		{"by flag, whatever RoR says", []byte("another"), "", []string{"--certificate-authority", file}},
	} {
		t.Run(row.name, func(t *testing.T) {
			ror.metadata = metadata(row.told)
			t.Setenv(proxyCAEnv, row.env)
			status, stdout, stderr := call(t, append([]string{"kubeconfig", "production"}, row.args...)...)
			require.Zero(t, status, stderr)
			requireAnswer(t, stdout, "/k8s-proxy/version Bearer pat:2:glpat-1")
		})
	}
}

// requireAnswer asks for a version as kubectl does, by a kubeconfig.
func requireAnswer(t *testing.T, kubeconfig, want string) {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(kubeconfig))
	require.NoError(t, err)
	client, err := discovery.NewDiscoveryClientForConfig(config)
	require.NoError(t, err)
	defer client.RESTClient().(*rest.RESTClient).Client.CloseIdleConnections()
	version, err := client.ServerVersion()
	require.NoError(t, err)
	require.Equal(t, want, version.GitVersion)
}

func TestKubeconfig_SaysWhatToDo(t *testing.T) {
	folder := t.TempDir()
	token := filepath.Join(folder, "token")
	require.NoError(t, os.WriteFile(token, []byte("glpat-proxy\n"), 0o600))
	empty := filepath.Join(folder, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	noKas, noProxy, plain := `{"kas":{"enabled":false}}`, `{"kas":{"enabled":true,"externalK8sProxyUrl":null}}`, `{"kas":{"enabled":true,"externalK8sProxyUrl":"http://kas/k8s-proxy/"}}`
	for _, row := range []struct {
		name   string
		change func(*proxyRoR)
		args   []string
		status int
		stderr string
	}{
		{"a token without the scope", func(r *proxyRoR) { r.scopes = `["api","read_api"]` }, nil, 1,
			"your token has not got the scope k8s_proxy (but api, read_api): let kasctl create one that has, with --create-token, or create one at RoR and name a file that holds it with --proxy-token-file"},
		{"a token of a file that has it", func(r *proxyRoR) { r.scopes = `["api"]` }, []string{"--proxy-token-file", token}, 0, ""},
		{"a token that may create none", func(r *proxyRoR) { r.mayCreate = false }, []string{"--create-token"}, 1, "lets your token create none (403): it needs the scope api"},
		{"an empty file", nil, []string{"--proxy-token-file", empty}, 2, "--proxy-token-file: " + empty + " is empty"},
		{"two tokens", nil, []string{"--proxy-token-file", token, "--create-token"}, 2, "exclude each other"},
		{"days of a token that is there", nil, []string{"--days=3"}, 2, "--days has an effect with --create-token only"},
		{"a token for ever", nil, []string{"--create-token", "--days=3650"}, 2, "--days: want 1 to 365"},
		{"no kas", func(r *proxyRoR) { r.metadata = noKas }, nil, 1, "has no kas"},
		{"no proxy", func(r *proxyRoR) { r.metadata = noProxy }, nil, 1, "does not know where kas's Kubernetes API proxy is: name it with --proxy-url"},
		{"no proxy, and one is named", func(r *proxyRoR) { r.metadata = noProxy }, []string{"--proxy-url", proxyURL}, 0, ""},
		{"a proxy by http", func(r *proxyRoR) { r.metadata = plain }, nil, 1, "kubectl sends tokens by https only"},
		{"a strange proxy", nil, []string{"--proxy-url", "kas"}, 1, `--proxy-url "kas": want https://HOST/k8s-proxy/`},
		{"no authority", nil, []string{"--certificate-authority", token}, 2, "holds no certificate in PEM"},
		{"an unknown agent", nil, nil, 1, `no agent "other"`},
		{"merged into nothing", nil, []string{"--merge", "--output=-"}, 2, "--merge and --output=- exclude each other"},
		{"nothing to force", nil, []string{"--force"}, 2, "--force has an effect with"},
		{"no context to keep", nil, []string{"--keep-context"}, 2, "--keep-context has an effect with --merge only"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := startProxyRoR(t)
			if row.change != nil {
				row.change(r)
			}
			agent := "production"
			if row.name == "an unknown agent" {
				agent = "other"
			}
			status, stdout, stderr := call(t, append([]string{"kubeconfig", agent}, row.args...)...)
			require.Equal(t, row.status, status, stderr)
			if row.status == 0 {
				require.Empty(t, stderr)
				return
			}
			require.Empty(t, stdout)
			require.Contains(t, stderr, row.stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), "one line")
		})
	}
}
