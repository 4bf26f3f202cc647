package ror_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kas-agentk/kas/internal/program"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/ror"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nobody is an address where nothing listens.
const nobody = "127.0.0.1:1"

// config is whole, with neither Gitaly nor kas there.
func config(t *testing.T) ror.Config {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	cfg := ror.DefaultConfig()
	cfg.ListenAddress = "127.0.0.1:0"
	cfg.ExternalURL = "http://ror.example/"
	cfg.Database = filepath.Join(dir, "ror.db")
	cfg.GitalyAddress = "tcp://" + nobody
	cfg.GitalyTokenFile = write("gitaly-token", "secret\n")
	cfg.KasAPIAddress = nobody
	cfg.KasSecretFile = write("kas-secret", base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))))
	cfg.GitlabShellSecretFile = write("shell-secret", "secret")
	cfg.Bootstrap = ror.Bootstrap{
		User: "root", PasswordFile: write("password", "a password\n"), TokenFile: write("token", "glpat-chosen-by-operator\n"),
	}
	return cfg
}

func TestRun_ServesWithoutGitalyAndKasUntilItsContextEnds(t *testing.T) {
	cfg := config(t)
	for range 2 { // the second time warm
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		core, logs := observer.New(zap.InfoLevel)
		go func() { done <- ror.Run(ctx, cfg, zap.New(core)) }()
		var address string
		testkit.Eventually(t, func() error {
			entries := logs.FilterMessage("ror serves").All()
			if len(entries) == 0 {
				return errors.New("it does not serve yet")
			}
			address = entries[0].ContextMap()["address"].(string)
			return nil
		})
		client := &http.Client{Transport: &http.Transport{}}
		get := func(path string) (int, string, error) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, http.NoBody)
			if err != nil {
				return 0, "", err
			}
			r.Header.Set("PRIVATE-TOKEN", "glpat-chosen-by-operator")
			res, err := client.Do(r)
			if err != nil {
				return 0, "", err
			}
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			return res.StatusCode, string(body), err
		}
		for path, want := range map[string]struct {
			code int
			says string
		}{
			"/-/liveness":                                {200, "ok"},
			"/-/readiness":                               {200, "ok"},
			"/api/v4/user":                               {200, `"username":"root"`},
			"/api/v4/projects/root%2Fx":                  {404, "Project"},
			"/api/v4/cluster_agents":                     {200, "[]"},
			"/api/v4/internal/kubernetes/agent_info":     {401, "401 Unauthorized"},
			"/api/v4/internal/check":                     {401, "401 Unauthorized"},
			"/api/v4/job/allowed_agents":                 {401, "401 Unauthorized"},
			"/a/b.git/info/refs?service=git-upload-pack": {401, "Sign in"},
			"/": {200, "Sign in"},
		} {
			code, body, err := get(path)
			require.NoError(t, err)
			require.Equal(t, want.code, code, path)
			require.Contains(t, body, want.says, path)
		}
		_, metrics, err := get("/-/metrics")
		require.NoError(t, err)
		require.Contains(t, metrics, `ror_http_request_duration_seconds_count{code="200",room="rest"}`)
		client.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
	}
}

func TestRun_SaysWhatIsWrongWithTheConfiguration(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(*ror.Config)
		says  string
	}{
		{"a URL has a host", func(c *ror.Config) { c.ExternalURL = "ror.example" }, "--external-url"},
		{"a URL has no path", func(c *ror.Config) { c.ExternalURL = "http://ror.example/gitlab" }, "--external-url"},
		{"a proxy has a URL", func(c *ror.Config) { c.KasProxyURL = "kas.example/k8s-proxy/" }, "--kas-proxy-url"},
		{"a proxy's URL names nobody", func(c *ror.Config) { c.KasProxyURL = "https://me@kas.example/k8s-proxy/" }, "--kas-proxy-url"},
		{"a proxy's authority is a certificate", func(c *ror.Config) { c.KasProxyCAFile = c.GitalyTokenFile }, "--kas-proxy-ca-file"},
		{"a secret is there", func(c *ror.Config) { c.KasSecretFile = "/nowhere" }, "--kas-secret-file"},
		{"a secret is base64 of enough bytes", func(c *ror.Config) { c.KasSecretFile = c.GitalyTokenFile }, "--kas-secret-file"},
		{"a token file holds something", func(c *ror.Config) { c.GitalyTokenFile = os.DevNull }, "--gitaly-token-file"},
		{"a Gitaly address is a URL", func(c *ror.Config) { c.GitalyAddress = "gitaly:8075" }, "--gitaly-address"},
		{"a database is a file", func(c *ror.Config) { c.Database = filepath.Dir(c.Database) }, "--database"},
		{"an address can be listened on", func(c *ror.Config) { c.ListenAddress = "127.0.0.1:99999" }, "--listen-address"},
		{"a first user has a password", func(c *ror.Config) { c.Bootstrap.PasswordFile = "" }, "--bootstrap-password-file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := config(t)
			row.spoil(&cfg)
			require.ErrorContains(t, ror.Run(t.Context(), cfg, testkit.Logger(t)), row.says)
		})
	}
}

func TestCommand_RefusesAWrongCall(t *testing.T) {
	for name, args := range map[string][]string{
		"a required flag is missing": {"--listen-address=127.0.0.1:0"},
		"a flag is unknown":          {"--nope"},
		"arguments are none":         {"serve"},
		"a log format is unknown":    {"--log-format=xml", "--external-url=http://a", "--gitaly-address=tcp://a:1", "--gitaly-token-file=x", "--kas-secret-file=x", "--gitlab-shell-secret-file=x"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr strings.Builder
			require.Equal(t, program.ExitUsage, program.Run(t.Context(), ror.NewCommand(), args, &stderr), stderr.String())
			require.Equal(t, 1, strings.Count(stderr.String(), "\n"))
		})
	}
}
