package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kas-agentk/kas/sandbox/ports"
	"github.com/kas-agentk/kas/sandbox/process"
)

// RedisConfig is what to start.
type RedisConfig struct {
	// Dir keeps its log, and its data where Args ask for them. Default: a temporary one,
	// which Stop removes.
	Dir string
	// Password that clients need. Default: none.
	Password string
	// File is a configuration file to begin with, for example a Sentinel's. Default: none.
	File string
	// Args are further arguments of redis-server, for example "--maxmemory", "8mb".
	Args []string
}

// Redis is a running redis-server of the machine. It keeps nothing on disk unless Args say so:
// started again, it is empty.
type Redis struct {
	// Process may be stopped, killed and started again.
	Process *process.Process
	Dir     string
	// Address is host:port, and Socket the path of a Unix socket.
	Address, Socket string

	cfg    RedisConfig
	runDir string
	ports  *ports.Set
}

// ErrNoRedis says that redis-server is not installed.
var ErrNoRedis = errors.New("redis-server is not installed: on Debian, apt-get install redis-server")

// StartRedis starts redis-server and returns when it answers. On an error nothing is left
// running. ctx bounds the start only.
func StartRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w (%w)", ErrNoRedis, err)
	}
	r := &Redis{cfg: cfg}
	if err := r.prepare(program); err != nil {
		return nil, fmt.Errorf("start Redis: %w", errors.Join(err, r.Stop()))
	}
	if err := r.Process.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

// Stop ends Redis for good and removes its directory where it was a temporary one. To start
// it again later, stop the Process instead.
func (r *Redis) Stop() error {
	var errs []error
	if r.Process != nil {
		if r.Process.Running() {
			errs = append(errs, r.Resume()) // else it would not hear of its end
		}
		errs = append(errs, r.Process.Stop())
	}
	if r.ports != nil {
		errs = append(errs, r.ports.Close())
	}
	if r.runDir != "" {
		errs = append(errs, os.RemoveAll(r.runDir))
	}
	if r.cfg.Dir == "" && r.Dir != "" {
		errs = append(errs, os.RemoveAll(r.Dir))
	}
	return errors.Join(errs...)
}

// Pause stops it from doing anything: connections stay, and nothing is answered.
func (r *Redis) Pause() error { return r.signal(syscall.SIGSTOP) }

// Resume is the end of a Pause.
func (r *Redis) Resume() error { return r.signal(syscall.SIGCONT) }

func (r *Redis) signal(s syscall.Signal) error {
	if !r.Process.Running() {
		return fmt.Errorf("send %s to Redis: it does not run", s)
	}
	if err := syscall.Kill(r.Process.PID(), s); err != nil {
		return fmt.Errorf("send %s to Redis: %w", s, err)
	}
	return nil
}

func (r *Redis) prepare(program string) error {
	var err error
	if r.Dir, err = instanceDir(r.cfg.Dir, "redis"); err != nil {
		return err
	}
	if r.ports, err = ports.Open(filepath.Join(r.Dir, "ports.json")); err != nil {
		return err
	}
	if r.Address, err = r.ports.Address("redis"); err != nil {
		return err
	}
	if r.runDir, err = os.MkdirTemp("", "redis-run-"); err != nil { // a socket's path is short
		return fmt.Errorf("make a directory: %w", err)
	}
	r.Socket = filepath.Join(r.runDir, "redis.sock")
	host, port, _ := strings.Cut(r.Address, ":")
	var args []string
	if r.cfg.File != "" {
		args = append(args, r.cfg.File)
	}
	args = append(args,
		"--bind", host, "--port", port, "--unixsocket", r.Socket, "--dir", r.Dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "notice")
	if r.cfg.Password != "" {
		args = append(args, "--requirepass", r.cfg.Password)
	}
	r.Process = process.New(process.Config{
		Name:    "redis-server",
		Path:    program,
		Args:    append(args, r.cfg.Args...),
		Dir:     r.Dir,
		LogFile: filepath.Join(r.Dir, "logs", "redis.log"),
		Ready:   r.ready,
	})
	return nil
}

// ready wants any answer but that it is loading.
func (r *Redis) ready(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.Address)
	if err != nil {
		return fmt.Errorf("connect to Redis: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing is in flight
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return fmt.Errorf("ask Redis: %w", err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("ask Redis: %w", err)
	}
	if strings.HasPrefix(line, "-LOADING") {
		return fmt.Errorf("Redis says %s", strings.TrimSpace(line))
	}
	return nil
}
