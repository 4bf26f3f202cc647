package demo

import (
	"context"
	"errors"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/kas-agentk/kas/sandbox"
)

const (
	goWanted = "go1.26"
	// Gitaly refuses an older one.
	gitMajor, gitMinor = 2, 33
	// spaceToBuild is what the first build takes: modules, Go's build cache, programs.
	spaceToBuild = 6 << 30
	// spaceToRun is what a demo may grow to.
	spaceToRun = 1 << 30
)

// check looks for everything that the demo needs and names all that is missing.
func check(ctx context.Context, cfg Config) error {
	var missing []error
	if runtime.GOOS != "linux" {
		missing = append(missing, fmt.Errorf("this is %s: the demo runs on Linux", runtime.GOOS))
	}
	missing = append(missing, checkGo(ctx), checkGit(ctx))
	if cfg.Kubeconfig != "" {
		if _, err := os.Stat(cfg.Kubeconfig); err != nil {
			missing = append(missing, fmt.Errorf("the kubeconfig that was given cannot be read: %w", err))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return fmt.Errorf("the demo needs something that this machine lacks:\n%w", err)
	}
	return checkSpace(ctx, cfg)
}

func checkGo(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return fmt.Errorf("no working Go (%w): install Go %s or newer, see https://go.dev/doc/install", err, strings.TrimPrefix(goWanted, "go"))
	}
	return judgeGo(strings.TrimSpace(string(out)))
}

func judgeGo(found string) error {
	if version.IsValid(found) && version.Compare(found, goWanted) < 0 {
		return fmt.Errorf("the version of Go is %s: install %s or newer, see https://go.dev/doc/install", found, goWanted)
	}
	return nil
}

func checkGit(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "git", "version").Output()
	if err != nil {
		return fmt.Errorf("no working git (%w): install it, on Debian with \"apt-get install git\"", err)
	}
	return judgeGit(strings.TrimSpace(string(out)))
}

var gitVersion = regexp.MustCompile(`(\d+)\.(\d+)`)

func judgeGit(found string) error {
	m := gitVersion.FindStringSubmatch(found)
	if m == nil {
		return nil // Gitaly will say if it minds
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major > gitMajor || major == gitMajor && minor >= gitMinor {
		return nil
	}
	return fmt.Errorf("git is too old (%s): Gitaly needs %d.%d or newer", found, gitMajor, gitMinor)
}

// checkSpace wants room to run, and to build where something is to be built.
func checkSpace(ctx context.Context, cfg Config) error {
	if err := judgeSpace(cfg.Dir, spaceToRun, "the demo's state"); err != nil {
		return err
	}
	missing, err := sandbox.Missing(ctx, sandbox.BuildConfig{Parts: parts(cfg), CacheDir: cfg.CacheDir})
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	cache, err := sandbox.CacheDir(cfg.CacheDir)
	if err != nil {
		return err
	}
	return judgeSpace(cache, spaceToBuild, "what is built once")
}

// judgeSpace wants so many free bytes where dir is or will be.
func judgeSpace(dir string, want uint64, what string) error {
	for {
		var fs syscall.Statfs_t
		err := syscall.Statfs(dir, &fs)
		if errors.Is(err, syscall.ENOENT) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return fmt.Errorf("look for free space in %s: %w", dir, err)
		}
		if free := fs.Bavail * uint64(fs.Bsize); free < want {
			return fmt.Errorf("the demo needs something that this machine lacks:\n%.1f GiB of free disk space in %s for %s; there is %.1f GiB",
				gib(want), dir, what, gib(free))
		}
		return nil
	}
}

func gib(bytes uint64) float64 { return float64(bytes) / (1 << 30) }
