package sandbox

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	gitalyauth "gitlab.com/gitlab-org/gitaly/v14/auth"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kas-agentk/kas/sandbox/ports"
	"github.com/kas-agentk/kas/sandbox/process"
)

const (
	// StorageName is the name of Gitaly's only storage.
	StorageName = "default"
	// longestRunDir keeps the sockets below it within the 107 bytes of a socket's path.
	longestRunDir = 60
)

// GitalyConfig is what to start.
type GitalyConfig struct {
	// Dir keeps everything: repositories, logs, configuration, secrets. A second start
	// in the same directory finds them again. Default: a temporary one, which Stop
	// removes.
	Dir string
	// GitLabURL is the base URL of RoR, which hooks ask about each push. It need not
	// serve yet. Default: an address where nobody listens, so every push is refused;
	// reading works.
	GitLabURL string
	// SecretFile holds the secret that hooks and RoR share, as GitLab Shell keeps it.
	// Default: one of its own; see Gitaly.SecretFile.
	SecretFile string
	// Socket makes it listen on a Unix socket instead of a port.
	Socket bool
	// CacheDir and Progress are those of BuildConfig.
	CacheDir string
	Progress io.Writer
}

// Gitaly is a running Gitaly with one storage, StorageName.
type Gitaly struct {
	// Process may be stopped, killed and started again.
	Process *process.Process
	// Dir is where everything is kept, the log in its folder "logs".
	Dir string
	// Address is what GitLab calls it: "tcp://host:port" or "unix:path".
	Address string
	// Token is the shared secret of its clients (for gitalyauth.RPCCredentialsV2), and
	// TokenFile a file that holds it.
	Token     string
	TokenFile string
	// SecretFile is the hooks' secret: see GitalyConfig.
	SecretFile string
	// StorageDir is the folder of StorageName.
	StorageDir string
	// MetricsURL serves its Prometheus metrics.
	MetricsURL string

	cfg      GitalyConfig
	programs Programs
	runDir   string
	ports    *ports.Set
}

// StartGitaly builds what is missing, starts Gitaly and returns when it serves. On
// an error nothing is left running. ctx bounds the start only.
func StartGitaly(ctx context.Context, cfg GitalyConfig) (*Gitaly, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("start Gitaly: it needs git: %w", err)
	}
	programs, err := Build(ctx, BuildConfig{Parts: []Part{PartGitaly}, CacheDir: cfg.CacheDir, Progress: cfg.Progress})
	if err != nil {
		return nil, err
	}
	g := &Gitaly{cfg: cfg, programs: programs}
	if err := g.prepare(git); err != nil {
		return nil, fmt.Errorf("start Gitaly: %w", errors.Join(err, g.Stop()))
	}
	if err := g.Process.Start(ctx); err != nil {
		return nil, errors.Join(err, g.Stop())
	}
	return g, nil
}

// Stop ends Gitaly for good and removes its directory where it was a temporary
// one. To start it again later, stop the Process instead.
func (g *Gitaly) Stop() error {
	var errs []error
	if g.Process != nil {
		errs = append(errs, g.Process.Stop())
	}
	if g.ports != nil {
		errs = append(errs, g.ports.Close())
	}
	if g.runDir != "" {
		errs = append(errs, os.RemoveAll(g.runDir))
	}
	if g.cfg.Dir == "" && g.Dir != "" {
		errs = append(errs, os.RemoveAll(g.Dir))
	}
	return errors.Join(errs...)
}

// prepare writes everything that Gitaly reads.
func (g *Gitaly) prepare(git string) error {
	var err error
	if g.Dir, err = instanceDir(g.cfg.Dir, "gitaly"); err != nil {
		return err
	}
	if err := g.prepareFiles(); err != nil {
		return err
	}
	if g.ports, err = ports.Open(filepath.Join(g.Dir, "ports.json")); err != nil {
		return err
	}
	metrics, err := g.ports.Address("metrics")
	if err != nil {
		return err
	}
	g.MetricsURL = "http://" + metrics + "/metrics"
	listen := "socket_path = " + quote(filepath.Join(g.runDir, "gitaly.sock"))
	g.Address = "unix:" + filepath.Join(g.runDir, "gitaly.sock")
	if !g.cfg.Socket {
		address, err := g.ports.Address("gitaly")
		if err != nil {
			return err
		}
		listen = "listen_addr = " + quote(address)
		g.Address = "tcp://" + address
	}
	config := filepath.Join(g.Dir, "config.toml")
	if err := os.WriteFile(config, []byte(g.config(listen, metrics, git)), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	g.Process = process.New(process.Config{
		Name: "gitaly",
		Path: filepath.Join(g.programs.GitalyDir, "gitaly"),
		Args: []string{config},
		// It and the git it runs look for settings in the user's home.
		Env:     []string{"HOME=" + g.Dir, "XDG_CONFIG_HOME=" + g.Dir, "GIT_CONFIG_NOSYSTEM=1"},
		Dir:     g.Dir,
		LogFile: filepath.Join(g.Dir, "logs", "gitaly.log"),
		Ready:   g.healthy,
	})
	return nil
}

// prepareFiles makes folders and secrets.
func (g *Gitaly) prepareFiles() error {
	g.StorageDir = filepath.Join(g.Dir, "repositories")
	// Ruby and GitLab Shell are not there, but their folders must be.
	for _, dir := range []string{g.StorageDir, g.path("ruby"), g.path("gitlab-shell"), g.path("hooks"), g.path("logs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err //nolint:wrapcheck // it names the path
		}
	}
	if err := os.WriteFile(g.path("languages.json"), []byte("{}"), 0o600); err != nil {
		return err //nolint:wrapcheck // it names the path
	}
	g.TokenFile = g.path("token")
	var err error
	if g.Token, err = EnsureSecret(g.TokenFile); err != nil {
		return err
	}
	g.SecretFile = g.cfg.SecretFile
	if g.SecretFile == "" {
		g.SecretFile = g.path("gitlab-shell-secret")
	}
	if _, err = EnsureSecret(g.SecretFile); err != nil {
		return err
	}
	g.runDir = g.path("run")
	if len(g.runDir) > longestRunDir {
		if g.runDir, err = os.MkdirTemp("", "gitaly-run-"); err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(g.runDir, 0o700); err != nil {
		return err //nolint:wrapcheck // it names the path
	}
	return nil
}

// config is the text of config.toml.
func (g *Gitaly) config(listen, metrics, git string) string {
	url := g.cfg.GitLabURL
	if url == "" {
		url = "http://127.0.0.1:1" // reserved: nobody listens there
	}
	return strings.Join([]string{
		listen,
		"prometheus_listen_addr = " + quote(metrics),
		"bin_dir = " + quote(g.programs.GitalyDir),
		"runtime_dir = " + quote(g.runDir),
		// A client that keeps a connection open must not hold up the end.
		`graceful_restart_timeout = "2s"`,
		"",
		"[logging]",
		`level = "warn"`,
		"",
		"[git]",
		"bin_path = " + quote(git),
		"",
		"[[storage]]",
		"name = " + quote(StorageName),
		"path = " + quote(g.StorageDir),
		"",
		"[auth]",
		"token = " + quote(g.Token),
		"",
		"[gitaly-ruby]",
		"dir = " + quote(g.path("ruby")),
		"linguist_languages_path = " + quote(g.path("languages.json")),
		"",
		"[gitlab-shell]",
		"dir = " + quote(g.path("gitlab-shell")),
		"",
		"[hooks]",
		"custom_hooks_dir = " + quote(g.path("hooks")),
		"",
		"[gitlab]",
		"url = " + quote(url),
		"secret_file = " + quote(g.SecretFile),
		"",
		"[daily_maintenance]",
		"disabled = true",
		"",
	}, "\n")
}

func (g *Gitaly) path(name string) string { return filepath.Join(g.Dir, name) }

// healthy asks Gitaly's health service.
func (g *Gitaly) healthy(ctx context.Context) error {
	target := strings.TrimPrefix(g.Address, "tcp://")
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(gitalyauth.RPCCredentialsV2(g.Token)))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", g.Address, err)
	}
	defer conn.Close() //nolint:errcheck // nothing is in flight
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return fmt.Errorf("ask %s for its health: %w", g.Address, err)
	}
	if resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("%s says %s", g.Address, resp.GetStatus())
	}
	return nil
}

// quote is a TOML string. Go's quoting of paths and hexadecimal is TOML's too.
func quote(s string) string { return fmt.Sprintf("%q", s) }

// EnsureSecret returns what the file holds, trimmed. Where there is no such file it
// writes the base64 of 32 random bytes first, which suits all parts of the system.
func EnsureSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := base64.StdEncoding.EncodeToString(randomBytes(32))
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write secret: %w", err)
	}
	return secret, nil
}
