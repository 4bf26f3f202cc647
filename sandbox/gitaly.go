package sandbox

import (
	"context"
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
	// HushGit keeps git 2.36 and newer from warning every pusher of a setting that
	// this Gitaly gives it by its old name. It costs a shell for each git, about a
	// millisecond, so it is for people to look at, not to measure with.
	HushGit bool
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
	if g.cfg.HushGit {
		if git, err = g.hushedGit(git); err != nil {
			return err
		}
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
		Env: []string{
			"HOME=" + g.Dir, "XDG_CONFIG_HOME=" + g.Dir, "GIT_CONFIG_NOSYSTEM=1",
			// For the stand-in of the Ruby workers, named bundle.
			"PATH=" + g.programs.GitalyDir + string(os.PathListSeparator) + os.Getenv("PATH"),
		},
		Dir:     g.Dir,
		LogFile: filepath.Join(g.Dir, "logs", "gitaly.log"),
		Ready:   g.healthy,
	})
	return nil
}

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
