package gitaly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/gitrepo"
)

const (
	// DefaultCacheSize is what the cache holds, in bytes.
	DefaultCacheSize = 256 << 20
	// DefaultReadTimeout is how long one call that reads a tree or a batch of blobs
	// may take.
	DefaultReadTimeout = 2 * time.Minute

	// DefaultMaxFiles is how many files a commit may have: their names are kept in memory.
	DefaultMaxFiles = 1_000_000

	// Modes of a tree's entries, as Git has them.
	modeFile       = 0o100644
	modeExecutable = 0o100755
)

// ContentConfig is how contents are read.
type ContentConfig struct {
	// CacheSize in bytes. Zero: DefaultCacheSize.
	CacheSize int64
	// ReadTimeout of one call. Zero: DefaultReadTimeout.
	ReadTimeout time.Duration
	// MaxFiles of a commit. Zero: DefaultMaxFiles.
	MaxFiles int
}

// Content reads commits. It is safe for concurrent use.
type Content struct {
	pool     *Pool
	timeout  time.Duration
	maxFiles int
	cache    *cache
	flights  *flights

	treeWalks prometheus.Counter
	lookups   *prometheus.CounterVec
	fetched   prometheus.Counter
	bytes     prometheus.Counter
	damaged   prometheus.Counter
}

// NewContent returns a reader of commits.
func NewContent(config ContentConfig, pool *Pool, registerer prometheus.Registerer) *Content {
	if config.CacheSize == 0 {
		config.CacheSize = DefaultCacheSize
	}
	if config.ReadTimeout == 0 {
		config.ReadTimeout = DefaultReadTimeout
	}
	if config.MaxFiles == 0 {
		config.MaxFiles = DefaultMaxFiles
	}
	metrics := promauto.With(registerer)
	c := &Content{
		pool:     pool,
		timeout:  config.ReadTimeout,
		maxFiles: config.MaxFiles,
		cache:    newCache(config.CacheSize),
		flights:  newFlights(),
		treeWalks: metrics.NewCounter(prometheus.CounterOpts{
			Name: "kas_gitaly_tree_walks_total", Help: "Commits whose files were listed.",
		}),
		lookups: metrics.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_gitaly_cache_lookups_total", Help: "Files and trees asked of the cache, by result: hit or miss.",
		}, []string{"result"}),
		fetched: metrics.NewCounter(prometheus.CounterOpts{
			Name: "kas_gitaly_blobs_fetched_total", Help: "Blobs fetched from Gitaly.",
		}),
		bytes: metrics.NewCounter(prometheus.CounterOpts{
			Name: "kas_gitaly_blob_bytes_fetched_total", Help: "Bytes of the blobs fetched from Gitaly.",
		}),
		damaged: metrics.NewCounter(prometheus.CounterOpts{
			Name: "kas_gitaly_blobs_damaged_total", Help: "Blobs that came other than their IDs say, and were fetched again one by one.",
		}),
	}
	metrics.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kas_gitaly_cache_bytes", Help: "Bytes in the cache of files and trees.",
	}, c.cache.bytes)
	return c
}

// Files lists the regular files of a commit, in Git's order. The list is shared.
// Symbolic links and submodules are left out. ErrTooManyFiles: the commit has more than
// MaxFiles entries.
func (c *Content) Files(ctx context.Context, repo gitrepo.Repository, commitID string) ([]gitrepo.File, error) {
	key := objectKey{repoKey: keyOf(repo), kind: kindTree, id: commitID}
	for {
		if tree, ok := c.lookup(key, nil); ok {
			return tree.([]gitrepo.File), nil
		}
		if landed := c.flights.claim(key); landed != nil {
			if err := wait(ctx, landed); err != nil {
				return nil, err
			}
			continue
		}
		files, err := c.land(ctx, key, repo, commitID)
		c.flights.release(key)
		return files, err
	}
}

// land lists the files of a commit for all who wait for it.
func (c *Content) land(ctx context.Context, key objectKey, repo gitrepo.Repository, commitID string) ([]gitrepo.File, error) {
	// Another's fetch may have ended since the cache was asked.
	if tree, ok := c.cache.get(key); ok {
		return tree.([]gitrepo.File), nil
	}
	files, err := c.walk(ctx, repo, commitID)
	if err == nil {
		c.cache.put(key, files, weigh(files))
	}
	return files, err
}

// wait returns when landed is closed, or with ctx's error.
func wait(ctx context.Context, landed <-chan struct{}) error {
	select {
	case <-landed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func weigh(files []gitrepo.File) int64 {
	const perFile = 32 // two strings
	var weight int64
	for i := range files {
		weight += perFile + int64(len(files[i].Path)+len(files[i].OID))
	}
	return weight
}

// lookup asks the cache for a value that is usable; nil means that any is.
func (c *Content) lookup(key objectKey, usable func(any) bool) (any, bool) {
	value, ok := c.cache.get(key)
	ok = ok && (usable == nil || usable(value))
	if ok {
		c.lookups.WithLabelValues("hit").Inc()
	} else {
		c.lookups.WithLabelValues("miss").Inc()
	}
	return value, ok
}

func (c *Content) walk(ctx context.Context, repo gitrepo.Repository, commitID string) ([]gitrepo.File, error) {
	doing := "list the files of commit " + commitID
	s, err := c.pool.session(repo.Server)
	if err != nil {
		return nil, err
	}
	c.treeWalks.Inc()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	stream, err := gitalypb.NewCommitServiceClient(s).GetTreeEntries(ctx, &gitalypb.GetTreeEntriesRequest{
		Repository: toGitaly(repo.Repository),
		Revision:   []byte(commitID),
		Path:       []byte("."),
		Recursive:  true,
	})
	if err != nil {
		return nil, problem(doing, err)
	}
	files := []gitrepo.File{}
	for found := false; ; {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) && !found {
			return files, s.confirm(ctx, repo, commitID)
		}
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, problem(doing, err)
		}
		found = found || len(response.GetEntries()) > 0
		if len(files)+len(response.GetEntries()) > c.maxFiles {
			return nil, gitrepo.ErrTooManyFiles
		}
		for _, e := range response.GetEntries() {
			if e.GetType() == gitalypb.TreeEntry_BLOB && (e.GetMode() == modeFile || e.GetMode() == modeExecutable) {
				files = append(files, gitrepo.File{Path: string(e.GetPath()), OID: e.GetOid()})
			}
		}
	}
}

// confirm returns nil if the commit exists. Gitaly lists the files of one that does
// not (pushed over and collected, say) as if it were empty, and nobody may take that
// for a wish to have nothing.
func (s *session) confirm(ctx context.Context, repo gitrepo.Repository, commitID string) error {
	_, _, err := s.commit(ctx, repo, gitrepo.Ref{Commit: commitID})
	var missing *gitrepo.RefNotFoundError
	if errors.As(err, &missing) {
		return &gitrepo.UnavailableError{Doing: "read the files of a commit", Err: fmt.Errorf("it no longer has commit %s", commitID)}
	}
	return err
}

// File reads one file of a commit. Errors are gitrepo.ErrFileNotFound,
// *gitrepo.TooLargeError and those of every call.
func (c *Content) File(ctx context.Context, repo gitrepo.Repository, commitID, path string, maxSize int64) ([]byte, error) {
	doing := fmt.Sprintf("read %s of commit %s", path, commitID)
	s, err := c.pool.session(repo.Server)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	stream, err := gitalypb.NewCommitServiceClient(s).TreeEntry(ctx, &gitalypb.TreeEntryRequest{
		Repository: toGitaly(repo.Repository),
		Revision:   []byte(commitID),
		Path:       []byte(path),
		Limit:      maxSize + 1, // so that a file that is too large is known by its size
	})
	if err != nil {
		return nil, problem(doing, err)
	}
	var data []byte
	for first := true; ; first = false {
		response, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && first:
			return nil, gitrepo.ErrFileNotFound
		case errors.Is(err, io.EOF):
			return data, nil
		case status.Code(err) == codes.NotFound && first:
			if err := s.confirm(ctx, repo, commitID); err != nil {
				return nil, err // it is the repository or the commit that is missing
			}
			return nil, gitrepo.ErrFileNotFound
		case err != nil:
			return nil, problem(doing, err)
		case first && !isRegular(response):
			return nil, gitrepo.ErrFileNotFound
		case first && response.GetSize() > maxSize:
			return nil, &gitrepo.TooLargeError{Path: path, Size: response.GetSize(), Limit: maxSize}
		}
		data = append(data, response.GetData()...)
	}
}

func isRegular(e *gitalypb.TreeEntryResponse) bool {
	return e.GetOid() != "" && e.GetType() == gitalypb.TreeEntryResponse_BLOB && (e.GetMode() == modeFile || e.GetMode() == modeExecutable)
}
