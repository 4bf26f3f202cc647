package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// CacheEnv names the variable that overrides where built programs are kept.
const CacheEnv = "SANDBOX_CACHE"

// mainModule is where the parts' modules are found.
const mainModule = "github.com/kas-agentk/kas"

// Source is the root of the checkout that this process runs in, where the modules
// of the parts are.
func Source(ctx context.Context) (string, error) {
	dir, err := goOutput(ctx, "", "list", "-m", "-f", "{{.Dir}}", mainModule)
	if err != nil {
		return "", fmt.Errorf("find the sources of %s (run it inside a checkout): %w", mainModule, err)
	}
	return dir, nil
}

// CacheDir is where built programs are kept: the override, $SANDBOX_CACHE, or a
// folder in the user's cache folder. It need not exist.
func CacheDir(override string) (string, error) {
	dir := override
	if dir == "" {
		dir = os.Getenv(CacheEnv)
	}
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a place for the programs: %w: set %s to a folder", err, CacheEnv)
		}
		dir = filepath.Join(user, "kas-agentk", "sandbox")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return dir, nil
}

// dir is where a part is, once it is built.
func (b *builder) dir(part Part, r recipe) (string, error) {
	key, err := b.key(part, r)
	if err != nil {
		return "", fmt.Errorf("%s: %w", part, err)
	}
	return filepath.Join(b.cache, string(part)+"-"+key), nil
}

// key changes whenever the programs would: with Go, the flags, and every file of
// the module, whose go.sum pins what it is made of.
func (b *builder) key(part Part, r recipe) (string, error) {
	root := os.DirFS(filepath.Join(b.source, r.module))
	hash := sha256.New()
	_, _ = fmt.Fprintln(hash, part, b.goVersion, r.env, r.ldflags, r.packages, r.revision)
	err := fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if _, err := fs.Stat(root, filepath.Join(path, "go.mod")); err == nil && path != "." {
				return fs.SkipDir // a module of its own
			}
			return nil
		}
		data, err := fs.ReadFile(root, path)
		if err != nil {
			return err //nolint:wrapcheck // it names the path
		}
		_, _ = fmt.Fprintln(hash, path, len(data))
		_, _ = hash.Write(data)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read its module: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// goCommand is a go command that no workspace file leads astray.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	return cmd
}

// goOutput runs go and returns what it prints, trimmed.
func goOutput(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := goCommand(ctx, dir, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(bytes.TrimSpace(out)), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
