package sandbox

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// lines is a Progress that several builders may write to.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// toy is a builder and a recipe of a module with one program.
func toy(t *testing.T, source string) (*builder, recipe, *lines) {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "toy", "inner"), 0o750))
	for name, content := range map[string]string{
		"go.mod":       "module example.com/toy\n\ngo 1.24\n",
		"main.go":      source,
		"inner/go.mod": "module example.com/inner\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(root, "toy", name), []byte(content), 0o600))
	}
	out := &lines{}
	return &builder{cache: filepath.Join(t.TempDir(), "cache"), source: root, goVersion: "go", out: out},
		recipe{what: "a toy", usually: "1 second", module: "toy", packages: []string{"."}, ldflags: "-s"}, out
}

const hello = "package main\n\nfunc main() { println(\"hello\") }\n"

func TestEnsure_BuildsOnceForManyAtTheSameTime(t *testing.T) {
	b, r, out := toy(t, hello)
	// What a build that was killed has left does not harm.
	require.NoError(t, os.MkdirAll(filepath.Join(b.cache, ".building-toy", "junk"), 0o750))
	var group errgroup.Group
	for range 3 {
		group.Go(func() error {
			dir, err := b.ensure(t.Context(), "toy", r)
			if err != nil {
				return err
			}
			return exec.CommandContext(t.Context(), filepath.Join(dir, "toy")).Run()
		})
	}
	require.NoError(t, group.Wait())
	require.Equal(t, 1, strings.Count(out.text.String(), "sandbox: building toy (a toy): once, about 1 second on two cores"), out.text.String())
	require.Equal(t, 1, strings.Count(out.text.String(), "sandbox: built toy in"))
	require.NoDirExists(t, filepath.Join(b.cache, ".building-toy"))
}

func TestEnsure_ShowsWhatTheCompilerSays(t *testing.T) {
	b, r, _ := toy(t, "package main\n\nfunc main() { undefinedThing() }\n")
	_, err := b.ensure(t.Context(), "toy", r)
	require.ErrorContains(t, err, "go build")
	require.ErrorContains(t, err, "undefined: undefinedThing")
	entries, err := os.ReadDir(b.cache)
	require.NoError(t, err)
	require.Len(t, entries, 1, "only the lock")
}

func TestKey_ChangesWithWhatTheProgramIsMadeOf(t *testing.T) {
	b, r, _ := toy(t, hello)
	key := func(b *builder, r recipe) string {
		k, err := b.key("toy", r)
		require.NoError(t, err)
		return k
	}
	before := key(b, r)
	require.Equal(t, before, key(b, r))

	newer := *b
	newer.goVersion = "newer"
	require.NotEqual(t, before, key(&newer, r))
	other := r
	other.ldflags = "-w"
	require.NotEqual(t, before, key(b, other))

	inner := filepath.Join(b.source, "toy", "inner", "x.go")
	require.NoError(t, os.WriteFile(inner, []byte("package x\n"), 0o600))
	require.Equal(t, before, key(b, r), "another module's file")
	require.NoError(t, os.WriteFile(filepath.Join(b.source, "toy", "x.go"), []byte("package main\n"), 0o600))
	require.NotEqual(t, before, key(b, r))
}

func TestKubernetesVersion_IsThatOfTheModule(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("controlplane", "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(data), "k8s.io/kubernetes "+kubernetesVersion+"\n")
}

func TestHushedGit_DoesAsGitWithoutTheWarning(t *testing.T) {
	plain, err := exec.LookPath("git")
	require.NoError(t, err)
	g := &Gitaly{Dir: t.TempDir()}
	hushed, err := g.hushedGit(plain)
	require.NoError(t, err)
	repository := filepath.Join(t.TempDir(), "a name with 'quotes' and $spaces")
	for _, args := range [][]string{
		{"init", "--quiet", repository},
		{"-c", "core.fsyncObjectFiles=true", "-C", repository, "hash-object", "-w", "--stdin"},
	} {
		cmd := exec.CommandContext(t.Context(), hushed, args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Run(), stderr.String())
		require.Empty(t, stderr.String())
	}
	require.DirExists(t, filepath.Join(repository, ".git"))
}
