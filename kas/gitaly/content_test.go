package gitaly_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/gitaly"
)

func startContent(t *testing.T, config gitaly.ContentConfig) (*fake, *gitaly.Content) {
	t.Helper()
	f := newFake()
	return f, gitaly.NewContent(config, f.serve(t, gitaly.PoolConfig{}), prometheus.NewRegistry())
}

func TestFiles_ListsRegularFilesOnce(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	id := f.commit("refs/heads/main", "one", map[string]string{"a.yaml": "a", "d/": "", "d/b.yaml": "b", "link": "a.yaml", "run.sh": "#", "sub": "x"})
	for range 2 {
		files, err := c.Files(t.Context(), repo, id)
		require.NoError(t, err)
		assert.Equal(t, []gitrepo.File{{Path: "a.yaml", OID: oid("a")}, {Path: "d/b.yaml", OID: oid("b")}, {Path: "run.sh", OID: oid("#")}}, files)
	}
	assert.Equal(t, 1, f.count("GetTreeEntries"))
}

func TestFiles_AMissingCommitIsNotAnEmptyOne(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	_, err := c.Files(t.Context(), repo, oid("gone"))
	assert.True(t, gitrepo.IsPassing(err), err)
	empty := f.commit("refs/heads/main", "empty", nil)
	files, err := c.Files(t.Context(), repo, empty)
	require.NoError(t, err)
	assert.Empty(t, files)
	other := repo
	other.Repository.RelativePath = "gone.git"
	_, err = c.Files(t.Context(), other, empty)
	assert.Equal(t, gitrepo.ErrRepositoryNotFound, err, "another repository's list is not taken from the cache")
}

func TestFiles_TooManyAreRefused(t *testing.T) {
	f, content := startContent(t, gitaly.ContentConfig{MaxFiles: 2})
	many := f.commit("refs/heads/main", "many", map[string]string{"a": "1", "b": "2", "c": "3"})
	few := f.commit("refs/heads/main", "few", map[string]string{"a": "1", "b": "2"})
	_, err := content.Files(t.Context(), repo, many)
	require.ErrorIs(t, err, gitrepo.ErrTooManyFiles)
	files, err := content.Files(t.Context(), repo, few)
	require.NoError(t, err)
	assert.Len(t, files, 2)
}

func TestFiles_FailuresAreNotKept(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	id := f.commit("refs/heads/main", "one", map[string]string{"a": "a"})
	f.fail(status.Error(codes.Unavailable, "going down"))
	_, err := c.Files(t.Context(), repo, id)
	assert.True(t, gitrepo.IsPassing(err), err)
	f.fail(nil)
	files, err := c.Files(t.Context(), repo, id)
	require.NoError(t, err)
	assert.Len(t, files, 1)
}

// read gathers what Blobs yields: contents, or "too large: <size>".
func read(ctx context.Context, c *gitaly.Content, oids []string, maxSize int64) (map[string]string, error) {
	got := map[string]string{}
	err := c.Blobs(ctx, repo, oids, maxSize, func(id string, data []byte, size int64) error {
		if _, twice := got[id]; twice {
			return fmt.Errorf("%s came twice", id)
		}
		got[id] = string(data)
		if data == nil {
			got[id] = fmt.Sprintf("too large: %d", size)
		}
		return nil
	})
	return got, err
}

func TestBlobs_FetchesOnlyWhatTheCacheLacks(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	large := strings.Repeat("x", 3<<20)
	f.commit("refs/heads/main", "one", map[string]string{"a": "a", "b": "b", "empty": "", "large": large, "c": "c"})
	oids := []string{oid("a"), oid("b"), oid("a"), oid(""), oid(large)}
	want := map[string]string{oid("a"): "a", oid("b"): "b", oid(""): "", oid(large): "too large: 3145728"}
	for range 2 {
		got, err := read(t.Context(), c, oids, 1<<20)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	assert.Equal(t, []int{4}, f.batches)

	got, err := read(t.Context(), c, append(oids, oid("c")), 4<<20)
	require.NoError(t, err)
	assert.Equal(t, large, got[oid(large)], "what was too large before is fetched when it is allowed")
	assert.Equal(t, []int{4, 2}, f.batches)
	got, err = read(t.Context(), c, oids, 1<<20)
	require.NoError(t, err)
	assert.Equal(t, want, got, "the limit holds for what the cache has, too")
}

func TestBlobs_DamagedOnesAreFetchedAgain(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	f.commit("refs/heads/main", "one", map[string]string{"a": "content a", "b": "content b", "c": "content c"})
	f.damage = map[string]bool{oid("content b"): true}
	for range 2 { // the second time from the cache
		got, err := read(t.Context(), c, []string{oid("content a"), oid("content b"), oid("content c")}, 1<<20)
		require.NoError(t, err)
		assert.Equal(t, map[string]string{oid("content a"): "content a", oid("content b"): "content b", oid("content c"): "content c"}, got)
	}
	assert.Equal(t, 1, f.calls["GetBlob"])
}

func TestBlobs_AsksForManyInBatches(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{CacheSize: 1}) // keeps nothing
	files := map[string]string{}
	var oids []string
	for i := range 2500 {
		files[fmt.Sprint(i)] = fmt.Sprint("content ", i)
		oids = append(oids, oid(fmt.Sprint("content ", i)))
	}
	f.commit("refs/heads/main", "one", files)
	got, err := read(t.Context(), c, oids, 100)
	require.NoError(t, err)
	assert.Len(t, got, 2500)
	assert.Equal(t, []int{1000, 1000, 500}, f.batches)
}

func TestBlobs_Failures(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	f.commit("refs/heads/main", "one", map[string]string{"a": "a"})
	_, err := read(t.Context(), c, []string{oid("a"), oid("gone")}, 100)
	assert.True(t, gitrepo.IsPassing(err), err)
	stop := errors.New("enough")
	err = c.Blobs(t.Context(), repo, []string{oid("a")}, 100, func(string, []byte, int64) error { return stop })
	require.ErrorIs(t, err, stop)
	got, err := read(t.Context(), c, []string{oid("a")}, 100)
	require.NoError(t, err, "nobody waits for ever for what another gave up")
	assert.Equal(t, map[string]string{oid("a"): "a"}, got)
}

func TestContent_ConcurrentAskersCostOneFetch(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	id := f.commit("refs/heads/main", "one", map[string]string{"a": "a", "b": "b", "c": "c"})
	f.hold = make(chan struct{})
	var g errgroup.Group
	for range 10 {
		g.Go(func() error {
			files, err := c.Files(t.Context(), repo, id)
			if err != nil || len(files) != 3 {
				return fmt.Errorf("%v: %w", files, err)
			}
			got, err := read(t.Context(), c, []string{oid("a"), oid("b"), oid("c")}, 100)
			if err != nil || len(got) != 3 {
				return fmt.Errorf("%v: %w", got, err)
			}
			return nil
		})
	}
	testkit.Eventually(t, func() error {
		if f.count("GetTreeEntries") == 0 {
			return errors.New("nobody asks")
		}
		return nil
	})
	close(f.hold)
	require.NoError(t, g.Wait())
	assert.Equal(t, 1, f.count("GetTreeEntries"))
	fetched := 0
	for _, n := range f.batches {
		fetched += n
	}
	assert.Equal(t, 3, fetched, "each blob once, whoever asked for it")
}

func TestContent_AnAskerThatGivesUpLeavesTheFetchToTheNext(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	id := f.commit("refs/heads/main", "one", map[string]string{"a": "a"})
	f.hold = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error {
		if _, err := c.Files(ctx, repo, id); err == nil {
			return errors.New("no error, although it gave up")
		}
		return nil
	})
	asked := func(n int) {
		testkit.Eventually(t, func() error {
			if got := f.count("GetTreeEntries"); got != n {
				return fmt.Errorf("%d calls, want %d", got, n)
			}
			return nil
		})
	}
	asked(1)
	g.Go(func() error {
		files, err := c.Files(t.Context(), repo, id)
		if len(files) != 1 {
			return fmt.Errorf("%v: %w", files, err)
		}
		return err
	})
	cancel()
	asked(2)
	close(f.hold)
	require.NoError(t, g.Wait())
}

func TestFile(t *testing.T) {
	f, c := startContent(t, gitaly.ContentConfig{})
	id := f.commit("refs/heads/main", "one", map[string]string{"d/a.yaml": "0123456789", "empty": "", "link": "d/a.yaml"})
	gone := repo
	gone.Repository.RelativePath = "gone.git"
	tests := map[string]struct {
		repo         gitrepo.Repository
		commit, path string
		want         string
		problem      error
	}{
		"a file":                         {repo, id, "d/a.yaml", "0123456789", nil},
		"an empty file":                  {repo, id, "empty", "", nil},
		"no such file":                   {repo, id, "x", "", gitrepo.ErrFileNotFound},
		"a symbolic link is not a file":  {repo, id, "link", "", gitrepo.ErrFileNotFound},
		"no such repository":             {gone, id, "d/a.yaml", "", gitrepo.ErrRepositoryNotFound},
		"a commit that is there no more": {repo, oid("gone"), "d/a.yaml", "", &gitrepo.UnavailableError{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			data, err := c.File(t.Context(), tt.repo, tt.commit, tt.path, 10)
			if tt.problem == nil {
				require.NoError(t, err)
				assert.Equal(t, tt.want, string(data))
				return
			}
			if gitrepo.IsPassing(tt.problem) {
				assert.True(t, gitrepo.IsPassing(err), err)
				return
			}
			assert.Equal(t, tt.problem, err)
		})
	}
	_, err := c.File(t.Context(), repo, id, "d/a.yaml", 9)
	assert.Equal(t, &gitrepo.TooLargeError{Path: "d/a.yaml", Size: 10, Limit: 9}, err)
}
