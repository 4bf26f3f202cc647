package desired

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/manifests"
)

const (
	agentID = 5
	token   = "secret"
)

// storeRig is a store at work in a directory that outlives it.
type storeRig struct {
	*Store
	dir   string
	disk  *failingFiles
	clock *clocktesting.FakeClock
	stop  func()

	mu    sync.Mutex
	wrote map[string][]error // by file
	aside []string
}

func startStore(t *testing.T, dir string) *storeRig {
	t.Helper()
	r := &storeRig{dir: dir, clock: clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0)), wrote: map[string][]error{}}
	d, err := openFiles(dir)
	require.NoError(t, err)
	r.disk = &failingFiles{files: d}
	r.Store = newStore(StoreConfig{
		Limits: DefaultLimits(), Clock: r.clock,
		Wrote: func(file string, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.wrote[file] = append(r.wrote[file], err)
		},
		SetAside: func(file string, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.aside = append(r.aside, fmt.Sprintf("%s: %v", file, err))
		},
	}, r.disk)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(r.stop)
	return r
}

// again is the next process.
func (r *storeRig) again(t *testing.T) *storeRig {
	t.Helper()
	r.stop()
	return startStore(t, r.dir)
}

// awaitWrite waits until a file was written n times, and returns how that ended.
func (r *storeRig) awaitWrite(t *testing.T, file string, n int) error {
	t.Helper()
	var last error
	testkit.Eventually(t, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if got := len(r.wrote[file]); got < n {
			return fmt.Errorf("%s was written %d times", file, got)
		}
		last = r.wrote[file][n-1]
		return nil
	})
	return last
}

func aProject(id string) *agentcfg.ManifestProject {
	return &agentcfg.ManifestProject{Id: id, Paths: []*agentcfg.PathCfg{{Glob: "/**/*.yaml"}}}
}

func configured(agentID int64, projects ...*agentcfg.ManifestProject) *agentrpc.WatchResponse {
	return &agentrpc.WatchResponse{
		AgentId: agentID, CommitId: "config",
		Configuration: &agentcfg.ConfigurationFile{Gitops: &agentcfg.Gitops{ManifestProjects: projects}},
	}
}

// aSet of ConfigMaps, received as kas sends them.
func aSet(t *testing.T, commit string, names ...string) *Set {
	t.Helper()
	set := &Set{
		Desired: gitops.Desired{Commit: commit, Set: manifests.Set{
			Complete: len(names)%2 == 0,
			Errors:   []manifests.FileError{{Path: "bad.yaml", Line: 3, Message: "is bad"}},
		}},
		Ref: "branch main", ProjectID: 10, ProjectPath: "demo/a", DetectedAt: time.Unix(1_700_000_000, 5).UTC(),
	}
	for i, name := range names {
		o := object(name)
		id, err := identify(o.GetJson())
		require.NoError(t, err)
		set.Set.Objects = append(set.Set.Objects, manifests.Object{
			ID: id, JSON: o.GetJson(), Digest: manifests.Digest(o.GetDigest()),
			Position: manifests.Position{Path: name + ".yaml", Line: i + 1},
		})
	}
	return set
}

func objectOf(json string) *agentrpc.Object {
	sum := sha256.Sum256([]byte(json))
	return &agentrpc.Object{Digest: sum[:], Json: []byte(json)}
}

func object(name string) *agentrpc.Object {
	return objectOf(fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q}}`, name))
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore_KeepsWhatItIsTold(t *testing.T) {
	for _, names := range [][]string{nil, {"x"}, {"x", "y"}} {
		r := startStore(t, filepath.Join(t.TempDir(), "state"))
		cfg := configured(agentID, aProject("a"))
		require.NoError(t, r.Lead(agentID, 3))
		r.KeepConfiguration(token, cfg)
		set := aSet(t, "c1", names...)
		r.KeepSet(agentID, aProject("a"), set)

		r = r.again(t)
		got, err := r.Configuration(token)
		require.NoError(t, err)
		require.True(t, proto.Equal(cfg, got))
		require.NoError(t, r.Lead(agentID, 3))
		kept, err := r.Set(agentID, aProject("a"))
		require.NoError(t, err)
		require.True(t, kept.Newest)
		require.False(t, kept.Set.Same(set), "kas has not confirmed it")
		want := *set
		want.Restored = true
		if len(names) == 0 {
			want.Set.Objects = []manifests.Object{}
		}
		require.Equal(t, &want, kept.Set)
		commit, digests := kept.Receiver.Held()
		require.Equal(t, "c1", commit)
		require.Len(t, digests, len(names))
		require.Empty(t, r.aside)
	}
}

func TestStore_KeepsNothingForOthers(t *testing.T) {
	r := startStore(t, filepath.Join(t.TempDir(), "state"))
	require.NoError(t, r.Lead(agentID, 3))
	r.KeepConfiguration(token, configured(agentID, aProject("a"), aProject("b")))
	r.KeepSet(agentID, aProject("a"), aSet(t, "c1", "x"))
	r.KeepSet(agentID, aProject("not configured"), aSet(t, "c1", "x"))
	r = r.again(t)

	_, err := r.Configuration("another")
	require.ErrorIs(t, err, ErrOtherToken)
	_, err = r.Set(agentID+1, aProject("a"))
	require.ErrorIs(t, err, ErrNotKept)
	_, err = r.Set(agentID, aProject("b"))
	require.ErrorIs(t, err, ErrNotKept)
	_, err = r.Set(agentID, aProject("not configured"))
	require.ErrorIs(t, err, ErrNotKept)
	elsewhere := aProject("a")
	elsewhere.Ref = &agentcfg.GitRef{Ref: &agentcfg.GitRef_Branch{Branch: "other"}}
	_, err = r.Set(agentID, elsewhere)
	require.ErrorIs(t, err, ErrNotKept, "other files of the same project")
	same := aProject("a")
	same.Prune = proto.Bool(false)
	_, err = r.Set(agentID, same)
	require.NoError(t, err, "the same files, treated in another way")
	require.Empty(t, r.aside)

	// The set of a project that leaves the configuration is removed, and so are
	// those of another agent.
	r.KeepConfiguration(token, configured(agentID+1, aProject("a")))
	r = r.again(t)
	_, err = r.Set(agentID, aProject("a"))
	require.ErrorIs(t, err, ErrNotKept)
	require.Equal(t, []string{"configuration", "term"}, list(t, r.dir))
}

func TestStore_TrustsItsSetsOnlyIfNobodyElseLed(t *testing.T) {
	for _, row := range []struct {
		name    string
		agentID int64
		term    int64
		newest  bool
	}{
		{"the same term goes on after a crash", agentID, 7, true},
		{"the lease was given up and taken again", agentID, 8, true},
		{"somebody else led in between", agentID, 9, false},
		{"the lease was made anew", agentID, 0, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := startStore(t, filepath.Join(t.TempDir(), "state"))
			require.NoError(t, r.Lead(agentID, 7))
			r.KeepSet(agentID, aProject("a"), aSet(t, "c1", "x"))
			r = r.again(t)
			require.NoError(t, r.Lead(row.agentID, row.term))
			kept, err := r.Set(agentID, aProject("a"))
			require.NoError(t, err)
			require.Equal(t, row.newest, kept.Newest)

			// What comes in this term is the newest again.
			r.KeepSet(agentID, aProject("a"), aSet(t, "c2", "x"))
			r = r.again(t)
			require.NoError(t, r.Lead(row.agentID, row.term))
			kept, err = r.Set(agentID, aProject("a"))
			require.NoError(t, err)
			require.True(t, kept.Newest)
			require.Equal(t, "c2", kept.Set.Commit)
		})
	}
}

func TestStore_SetThatWaitsToBeWrittenIsOfItsOwnTerm(t *testing.T) {
	name := setFile(agentID, aProject("a"))
	r := startStore(t, filepath.Join(t.TempDir(), "state"))
	require.NoError(t, r.Lead(agentID, 7))
	r.disk.fail("rename "+name+beingWritten, syscall.ENOSPC)
	r.KeepSet(agentID, aProject("a"), aSet(t, "c1", "x"))
	require.ErrorIs(t, r.awaitWrite(t, name, 1), syscall.ENOSPC)

	require.NoError(t, r.Lead(agentID, 9)) // somebody else led in between
	r.disk.fail("", nil)
	r = r.again(t)
	require.NoError(t, r.Lead(agentID, 9))
	_, err := r.Set(agentID, aProject("a"))
	require.ErrorIs(t, err, ErrNotKept)
}

func TestStore_LeadLosesNoSetThatIsBeingWritten(t *testing.T) {
	name := setFile(agentID, aProject("a"))
	r := startStore(t, filepath.Join(t.TempDir(), "state"))
	for n := range 50 {
		commit := fmt.Sprintf("c%d", n)
		r.KeepSet(agentID, aProject("a"), aSet(t, commit, "x"))
		require.NoError(t, r.Lead(agentID, int64(2*n)))
		require.NoError(t, r.awaitWrite(t, name, n+1))
		kept, err := r.Set(agentID, aProject("a"))
		require.NoError(t, err)
		require.Equal(t, commit, kept.Set.Commit)
		require.False(t, kept.Newest)
	}
}

func TestStore_DamagedFileIsSetAside(t *testing.T) {
	name := setFile(agentID, aProject("a"))
	for _, row := range []struct {
		name, says string
		damage     func([]byte) []byte
	}{
		{"an empty file", "damaged", func([]byte) []byte { return nil }},
		{"a file of something else", "not a file of agentk's", func([]byte) []byte { return []byte("#!/bin/sh\n") }},
		{"no line at all", "damaged", func([]byte) []byte { return []byte(strings.Repeat("x", 1<<20)) }},
		{"cut off in the middle", "damaged", func(b []byte) []byte { return b[:len(b)/2] }},
		{"cut off by a byte", "damaged", func(b []byte) []byte { return b[:len(b)-1] }},
		{"a byte too many", "damaged", func(b []byte) []byte { return append(b, 0) }},
		{"a bit that flipped", "", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"a bit that flipped in the checksum", "its checksum is wrong", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"a later format", "written by a newer agentk", func(b []byte) []byte {
			return []byte(strings.Replace(string(b), "agentk-state 1\n", "agentk-state 2\n", 1))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := startStore(t, filepath.Join(t.TempDir(), "state"))
			r.KeepSet(agentID, aProject("a"), aSet(t, "c1", "x", "y"))
			r.stop()
			path := filepath.Join(r.dir, name)
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, row.damage(data), 0o600))

			r = r.again(t)
			_, err = r.Set(agentID, aProject("a"))
			require.ErrorIs(t, err, ErrNotKept)
			require.Len(t, r.aside, 1)
			require.Contains(t, r.aside[0], row.says)
			require.Equal(t, []string{name + broken}, list(t, r.dir))
			// The next set takes its place.
			r.KeepSet(agentID, aProject("a"), aSet(t, "c2", "x"))
			r = r.again(t)
			kept, err := r.Set(agentID, aProject("a"))
			require.NoError(t, err)
			require.Equal(t, "c2", kept.Set.Commit)
		})
	}
}

func TestStore_FullDiskLeavesTheOldSetAndHarmsNothingElse(t *testing.T) {
	name := setFile(agentID, aProject("a"))
	for _, row := range []struct {
		op  string
		err error
		// newest: the store could not even mark the old set.
		newest bool
	}{
		{"create", syscall.ENOSPC, false},
		{"write", syscall.ENOSPC, false},
		{"sync", syscall.EIO, false},
		{"rename " + name + beingWritten, syscall.ENOSPC, false},
		{"rename " + name, syscall.EROFS, true},
	} {
		t.Run(row.op, func(t *testing.T) {
			r := startStore(t, filepath.Join(t.TempDir(), "state"))
			require.NoError(t, r.Lead(agentID, 1))
			r.KeepSet(agentID, aProject("a"), aSet(t, "c1", "x"))
			require.NoError(t, r.awaitWrite(t, name, 1))
			r.disk.fail(row.op, row.err)
			r.KeepSet(agentID, aProject("a"), aSet(t, "c2", "x"))
			require.ErrorIs(t, r.awaitWrite(t, name, 2), row.err)

			// A process that starts now must not take the cluster back to the old set.
			next := startStore(t, r.dir)
			require.NoError(t, next.Lead(agentID, 1))
			kept, err := next.Set(agentID, aProject("a"))
			require.NoError(t, err)
			require.Equal(t, "c1", kept.Set.Commit)
			require.Equal(t, row.newest, kept.Newest)
			kept, err = r.Set(agentID, aProject("a"))
			require.NoError(t, err)
			require.False(t, kept.Newest, "the process itself knows better")

			// There is room again.
			r.disk.fail("", nil)
			testkit.Eventually(t, func() error {
				if !r.clock.HasWaiters() {
					return errors.New("nobody waits")
				}
				return nil
			})
			r.clock.Step(retryWrites)
			require.NoError(t, r.awaitWrite(t, name, 3))
			r = r.again(t)
			require.NoError(t, r.Lead(agentID, 1))
			kept, err = r.Set(agentID, aProject("a"))
			require.NoError(t, err)
			require.Equal(t, "c2", kept.Set.Commit)
			require.True(t, kept.Newest)
		})
	}
}

func TestStore_IsPrivate(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777))
	r := startStore(t, dir)
	r.KeepConfiguration(token, configured(agentID, aProject("a")))
	r.KeepSet(agentID, aProject("a"), aSet(t, "c1", "x"))
	require.NoError(t, r.Lead(agentID, 1))
	r.stop()
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	names := list(t, dir)
	require.Len(t, names, 3)
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), name)
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NotContains(t, string(data), token)
	}
	_, err = openFiles(filepath.Join(dir, names[0]))
	require.ErrorIs(t, err, syscall.ENOTDIR)
}

func FuzzStore_ReadsAnything(f *testing.F) {
	dir := f.TempDir()
	d, err := openFiles(dir)
	require.NoError(f, err)
	s := newStore(StoreConfig{Limits: DefaultLimits(), Wrote: func(string, error) {}, SetAside: func(string, error) {}}, d)
	s.KeepSet(agentID, aProject("a"), &Set{Desired: gitops.Desired{Commit: "c1"}, ProjectID: 1})
	s.KeepConfiguration(token, configured(agentID, aProject("a")))
	s.flush()
	for _, name := range []string{setFile(agentID, aProject("a")), configurationFile} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range []string{setFile(agentID, aProject("a")), configurationFile, termFile} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		}
		_, _ = s.Set(agentID, aProject("a"))
		_, _ = s.Configuration(token)
		_, _ = s.term(agentID)
	})
}

// BenchmarkStore_KeepSet is what a commit costs, off the way of the sync.
func BenchmarkStore_KeepSet(b *testing.B) {
	d, err := openFiles(b.TempDir())
	require.NoError(b, err)
	s := newStore(StoreConfig{Limits: DefaultLimits(), Wrote: func(_ string, err error) { require.NoError(b, err) }}, d)
	set := &Set{Desired: gitops.Desired{Commit: "c1"}, ProjectID: 1}
	filler := strings.Repeat("x", 2000)
	for i := range 10_000 {
		json := fmt.Sprintf(`{"apiVersion":"v1","data":{"key":%q},"kind":"ConfigMap","metadata":{"name":"cm-%d"}}`, filler, i)
		o := objectOf(json)
		id, err := identify(o.GetJson())
		require.NoError(b, err)
		set.Set.Objects = append(set.Set.Objects, manifests.Object{ID: id, JSON: o.GetJson(), Digest: manifests.Digest(o.GetDigest())})
	}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			s.KeepSet(agentID, aProject("a"), set)
			s.flush()
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			_, err := s.Set(agentID, aProject("a"))
			require.NoError(b, err)
		}
	})
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	d := osFiles(dir)
	names, err := d.List()
	require.NoError(t, err)
	return names
}

// failingFiles is a disk on which one operation fails.
type failingFiles struct {
	files
	mu  sync.Mutex
	op  string
	err error
}

func (f *failingFiles) fail(op string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.op, f.err = op, err
}

func (f *failingFiles) failed(op string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if op == f.op {
		return f.err
	}
	return nil
}

func (f *failingFiles) Create(name string) (writable, error) {
	if err := f.failed("create"); err != nil {
		return nil, err
	}
	w, err := f.files.Create(name)
	return &failingFile{writable: w, disk: f}, err
}

func (f *failingFiles) Rename(from, to string) error {
	if err := f.failed("rename " + from); err != nil {
		return err
	}
	return f.files.Rename(from, to)
}

type failingFile struct {
	writable
	disk *failingFiles
}

func (f *failingFile) Write(p []byte) (int, error) {
	if err := f.disk.failed("write"); err != nil {
		n, _ := f.writable.Write(p[:len(p)/2])
		return n, err
	}
	return f.writable.Write(p)
}

func (f *failingFile) Sync() error {
	if err := f.disk.failed("sync"); err != nil {
		return err
	}
	return f.writable.Sync()
}
