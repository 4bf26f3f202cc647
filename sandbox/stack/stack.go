package stack

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kas-agentk/kas/sandbox/ports"
	"github.com/kas-agentk/kas/sandbox/process"
)

// User is the name of the first user, an administrator.
const User = "root"

// Config is what to run. Dir and Programs are required.
type Config struct {
	// Dir keeps everything. A second start in the same directory goes on where the
	// first ended.
	Dir      string
	Programs Programs
	// PollPeriod of manifest and configuration projects. Default one second.
	PollPeriod time.Duration
	// InfoCacheTTL is how long kas believes what ror said of a token or a project.
	// Default five seconds.
	InfoCacheTTL time.Duration
	// LogLevel of all programs. Default info.
	LogLevel string
	// TracingEndpoint is the URL of an OTLP/HTTP collector. Empty: nothing is traced.
	TracingEndpoint string
}

// Stack is ror and kas. Nothing runs until they are started.
type Stack struct {
	cfg Config

	Ror *process.Process
	Kas *process.Process

	// RorURL is where people, kas and gitaly-hooks find ror.
	RorURL string
	// Password and Token of User.
	Password, Token string
	// KasAgentAddress is what agentk dials, KasAPIAddress what ror dials (HOST:PORT).
	KasAgentAddress, KasAPIAddress string
	// KasProxyURL is where kas's Kubernetes API proxy begins. It is https, because kubectl
	// sends no token by http; KasProxyCAFile is who vouches for it.
	KasProxyURL, KasProxyCAFile string
	// KasMetricsURL is kas's Prometheus endpoint.
	KasMetricsURL string
	// RorMetricsURL is ror's, at its port for operators.
	RorMetricsURL string
	// KasSecretFile is shared by kas and ror, ShellSecretFile by Gitaly's hooks and
	// ror.
	KasSecretFile, ShellSecretFile string

	ports *ports.Set
}

// New writes everything that ror and kas read. Ror's address is needed to start
// Gitaly, and Gitaly's to start ror: so SetGitaly comes before Ror.Start.
func New(cfg Config) (*Stack, error) {
	if cfg.PollPeriod == 0 {
		cfg.PollPeriod = time.Second
	}
	if cfg.InfoCacheTTL == 0 {
		cfg.InfoCacheTTL = 5 * time.Second
	}
	if cfg.LogLevel == "" {
		cfg.LogLevel = "info"
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the stack's folder: %w", err)
	}
	s := &Stack{cfg: cfg}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("prepare ror and kas: %w", err)
	}
	return s, nil
}

// metricsPath is where Prometheus's endpoints are.
const metricsPath = "/metrics"

func (s *Stack) prepare() error {
	var err error
	if s.ports, err = ports.Open(s.path("ports.json")); err != nil {
		return fmt.Errorf("choose ports: %w", err)
	}
	addresses := map[string]string{}
	for _, name := range []string{"ror", "kas-agent", "kas-api", "kas-proxy", "kas-metrics", "ror-metrics"} {
		if addresses[name], err = s.ports.Address(name); err != nil {
			return fmt.Errorf("choose ports: %w", err)
		}
	}
	s.RorURL = "http://" + addresses["ror"]
	s.KasAgentAddress = "grpc://" + addresses["kas-agent"]
	s.KasAPIAddress = addresses["kas-api"]
	s.KasProxyURL, s.KasProxyCAFile = "https://"+addresses["kas-proxy"]+"/k8s-proxy/", s.path("kas-proxy.crt")
	s.KasMetricsURL = "http://" + addresses["kas-metrics"] + metricsPath
	s.RorMetricsURL = "http://" + addresses["ror-metrics"] + metricsPath
	s.KasSecretFile, s.ShellSecretFile = s.path("kas-secret"), s.path("shell-secret")
	for path, make := range map[string]func() string{
		s.KasSecretFile:         secret,
		s.ShellSecretFile:       secret,
		s.path("root-password"): word,
		s.path("root-token"):    func() string { return "glpat-" + word() },
	} {
		if err := once(path, make); err != nil {
			return err
		}
	}
	if err := ensureCertificate(s.KasProxyCAFile, s.path("kas-proxy.key")); err != nil {
		return err
	}
	if s.Password, err = read(s.path("root-password")); err != nil {
		return err
	}
	if s.Token, err = read(s.path("root-token")); err != nil {
		return err
	}
	kasConfig := fmt.Sprintf(kasConfigTemplate,
		s.RorURL, s.KasSecretFile, addresses["kas-agent"],
		s.cfg.PollPeriod, s.cfg.PollPeriod, s.cfg.InfoCacheTTL, s.cfg.InfoCacheTTL, s.cfg.InfoCacheTTL, s.cfg.InfoCacheTTL,
		addresses["kas-proxy"], s.KasProxyCAFile, s.path("kas-proxy.key"), s.cfg.InfoCacheTTL, s.cfg.InfoCacheTTL,
		addresses["kas-api"], addresses["kas-metrics"], s.cfg.LogLevel)
	if s.cfg.TracingEndpoint != "" {
		kasConfig += "  tracing:\n    otlp_endpoint: " + s.cfg.TracingEndpoint + "\n"
	}
	if err := os.WriteFile(s.path("kas.yaml"), []byte(kasConfig), 0o600); err != nil {
		return fmt.Errorf("write kas's configuration: %w", err)
	}
	s.Kas = process.New(process.Config{
		Name:    "kas",
		Path:    s.cfg.Programs.Kas,
		Args:    []string{"--configuration-file=" + s.path("kas.yaml")},
		LogFile: s.path("logs", "kas.log"),
		Ready:   answers("http://" + addresses["kas-metrics"] + "/liveness"),
	})
	return nil
}

const kasConfigTemplate = `gitlab:
  address: %s
  authentication_secret_file: %s
agent:
  listen:
    address: %s
  configuration:
    poll_period: %s
  gitops:
    poll_period: %s
    project_info_cache_ttl: %s
    project_info_cache_error_ttl: %s
  info_cache_ttl: %s
  info_cache_error_ttl: %s
  kubernetes_api:
    listen:
      address: %s
      certificate_file: %s
      key_file: %s
    allowed_agent_cache_ttl: %s
    allowed_agent_cache_error_ttl: %s
api:
  listen:
    address: %s
observability:
  listen:
    address: %s
  logging:
    level: %s
`

// SetGitaly says where Gitaly is: its address as a URL and the file with its token.
func (s *Stack) SetGitaly(address, tokenFile string) {
	s.Ror = process.New(process.Config{
		Name: "ror",
		Path: s.cfg.Programs.Ror,
		Args: append([]string{
			"--listen-address=" + s.RorURL[len("http://"):],
			"--observability-listen-address=" + strings.TrimSuffix(s.RorMetricsURL[len("http://"):], metricsPath),
			"--external-url=" + s.RorURL,
			"--database=" + s.path("ror.sqlite"),
			"--gitaly-address=" + address,
			"--gitaly-token-file=" + tokenFile,
			"--kas-api-address=" + s.KasAPIAddress,
			"--kas-agent-address=" + s.KasAgentAddress,
			"--kas-proxy-url=" + s.KasProxyURL,
			"--kas-proxy-ca-file=" + s.KasProxyCAFile,
			"--kas-secret-file=" + s.KasSecretFile,
			"--gitlab-shell-secret-file=" + s.ShellSecretFile,
			"--bootstrap-user=" + User,
			"--bootstrap-password-file=" + s.path("root-password"),
			"--bootstrap-token-file=" + s.path("root-token"),
			"--log-level=" + s.cfg.LogLevel,
		}, tracingFlag(s.cfg.TracingEndpoint)...),
		LogFile: s.path("logs", "ror.log"),
		Ready:   answers(s.RorURL + "/-/readiness"),
	})
}

// TracingEndpoint is that of the Config.
func (s *Stack) TracingEndpoint() string { return s.cfg.TracingEndpoint }

// Client speaks ror's REST as User.
func (s *Stack) Client() *Client {
	return &Client{URL: s.RorURL, Token: s.Token}
}

// Stop stops what runs, kas first, and gives the ports back.
func (s *Stack) Stop() error {
	var errs []error
	for _, p := range []*process.Process{s.Kas, s.Ror} {
		if p != nil {
			errs = append(errs, p.Stop())
		}
	}
	return errors.Join(append(errs, s.ports.Close())...)
}

func (s *Stack) path(elements ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elements...)...)
}

// answers is ready when a GET of url is answered with 200.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return fmt.Errorf("ask %s: %w", url, err)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("ask whether it serves: %w", err)
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return nil
	}
}

// once writes a file that does not exist yet.
func once(path string, content func() string) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err //nolint:wrapcheck // it names the path
	}
	if err := os.WriteFile(path, []byte(content()+"\n"), 0o600); err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	return nil
}

func read(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	return string(data[:len(data)-1]), nil
}

func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.StdEncoding.EncodeToString(b)
}

func word() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
