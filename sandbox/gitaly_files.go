package sandbox

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

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

// hushedGit writes a git that calls the setting by its new name.
func (g *Gitaly) hushedGit(git string) (string, error) {
	path := g.path("git")
	script := `#!/bin/sh
for arg; do
  shift
  [ "$arg" != core.fsyncObjectFiles=true ] || arg=core.fsync=loose-object
  set -- "$@" "$arg"
done
exec '` + git + `' "$@"
`
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil { //nolint:gosec // it is to be run
		return "", fmt.Errorf("write git's wrapper: %w", err)
	}
	return path, nil
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
