package push

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/manifests"
)

// readBatch is how many files are asked for at once. After each batch the limit on
// all files' size is looked at.
const readBatch = 1000

// parsed is what a file held when its blob had this ID.
type parsed struct {
	oid    string
	result manifests.FileResult
}

// read makes the set of a commit. Files whose blobs are those of the set before are
// taken from it.
func (f *feed) read(ctx context.Context, commitID string) (manifests.Set, error) {
	all, err := f.feeds.source.Files(ctx, f.repo, commitID)
	if err != nil {
		return manifests.Set{}, fmt.Errorf("list the files of commit %s: %w", commitID, err)
	}
	var selected []gitrepo.File
	for _, file := range all {
		if f.selector.Match(file.Path) {
			selected = append(selected, file)
		}
	}
	slices.SortFunc(selected, func(a, b gitrepo.File) int { return strings.Compare(a.Path, b.Path) })

	results, err := f.render(ctx, all)
	if err != nil {
		return manifests.Set{}, fmt.Errorf("read commit %s: %w", commitID, err)
	}
	r := &reader{feed: f, files: make(map[string]parsed, len(selected))}
	results = slices.Grow(results, len(selected))
	var size int64
	for i := range results {
		size += results[i].Size
	}
	for start := 0; start < len(selected) && size <= f.feeds.limits.MaxTotalSize; start += readBatch {
		batch := selected[start:min(start+readBatch, len(selected))]
		if start >= f.feeds.limits.MaxFiles {
			// Assemble leaves them out: it only counts them.
			for _, file := range batch {
				results = append(results, manifests.FileResult{Path: strings.ToValidUTF8(file.Path, "\uFFFD")})
			}
			continue
		}
		if err := r.read(ctx, batch); err != nil {
			return manifests.Set{}, fmt.Errorf("read the files of commit %s: %w", commitID, err)
		}
		for _, file := range batch {
			result := r.files[file.Path].result
			size += result.Size
			results = append(results, result)
		}
	}
	f.files = r.files
	return manifests.Assemble(results, f.namespace, f.feeds.limits), nil
}

// reader gathers the files of one commit.
type reader struct {
	feed  *feed
	files map[string]parsed
}

// read adds the results of a batch of files.
func (r *reader) read(ctx context.Context, batch []gitrepo.File) error {
	limits := r.feed.feeds.limits
	paths := make(map[string][]string) // by the ID of a blob that is not known
	var oids []string
	for _, file := range batch {
		if known, ok := r.feed.files[file.Path]; ok && known.oid == file.OID {
			r.files[file.Path] = known
			continue
		}
		if paths[file.OID] == nil {
			oids = append(oids, file.OID)
		}
		paths[file.OID] = append(paths[file.OID], file.Path)
	}
	if len(oids) == 0 {
		return nil
	}
	err := r.feed.feeds.source.Blobs(ctx, r.feed.repo, oids, limits.MaxFileSize, func(oid string, data []byte, size int64) error {
		for _, path := range paths[oid] {
			result := parsed{oid: oid}
			if data == nil {
				result.result = manifests.TooLarge(path, size, limits)
			} else {
				result.result = manifests.ParseFile(path, data, limits)
				r.feed.feeds.metrics.parsed.Inc()
			}
			r.files[path] = result
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%d blobs: %w", len(oids), err)
	}
	return nil
}
