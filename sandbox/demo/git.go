package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// git speaks to one repository with the git of the machine, deaf to the settings and
// the environment of the user.
type git struct {
	url string // credentials included
}

// head is the commit of the default branch, or empty where there is none.
func (g git) head(ctx context.Context) (string, error) {
	out, err := g.run(ctx, "", "ls-remote", g.url, "HEAD")
	if err != nil {
		return "", err
	}
	commit, _, _ := strings.Cut(out, "\t")
	return commit, nil
}

// pushFolder pushes a copy of a folder as the only commit of main.
func (g git) pushFolder(ctx context.Context, folder, message string) (string, error) {
	temp, err := os.MkdirTemp("", "kas-demo-push-")
	if err != nil {
		return "", fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(temp) //nolint:errcheck // what is left is in the folder for temporary files
	if err := os.CopyFS(filepath.Join(temp, "work"), os.DirFS(folder)); err != nil {
		return "", fmt.Errorf("copy the sample: %w", err)
	}
	work := filepath.Join(temp, "work")
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "--all"},
		{"commit", "--quiet", "--message=" + message},
		{"push", "--quiet", g.url, "main"},
	} {
		if _, err := g.run(ctx, work, args...); err != nil {
			return "", err
		}
	}
	return g.run(ctx, work, "rev-parse", "HEAD")
}

func (g git) run(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Demo", "GIT_AUTHOR_EMAIL=demo@example.com",
		"GIT_COMMITTER_NAME=Demo", "GIT_COMMITTER_EMAIL=demo@example.com",
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}
