package gitaly

import (
	"context"
	"errors"
	"fmt"
	"io"

	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"

	"github.com/kas-agentk/kas/internal/gitrepo"
)

// blobBatch is how many blobs one call asks for. Gitaly passes the IDs to git as
// arguments: this stays far below what a command line may hold.
const blobBatch = 1000

// Blobs calls yield once for each of the distinct oids, in no particular order and
// from the caller's goroutine: with the content, or with nil where the blob is larger
// than maxSize bytes; size is the blob's in either case. An error of yield ends it
// and is returned as it is. Contents are shared.
func (c *Content) Blobs(ctx context.Context, repo gitrepo.Repository, oids []string, maxSize int64, yield func(oid string, data []byte, size int64) error) error {
	remaining := unique(oids)
	for len(remaining) > 0 {
		b := &batch{content: c, repo: repo, maxSize: maxSize, yield: yield}
		others, err := b.claim(remaining)
		if err == nil {
			err = b.fetch(ctx)
		}
		b.release()
		if err != nil {
			return err
		}
		// What others fetch is in the cache when they are done, or it is ours then.
		remaining = remaining[:0]
		for oid, landed := range others {
			if err := wait(ctx, landed); err != nil {
				return err
			}
			remaining = append(remaining, oid)
		}
	}
	return nil
}

func unique(oids []string) []string {
	seen := make(map[string]struct{}, len(oids))
	list := make([]string, 0, len(oids))
	for _, oid := range oids {
		if _, ok := seen[oid]; !ok {
			seen[oid] = struct{}{}
			list = append(list, oid)
		}
	}
	return list
}

// batch is the blobs that one caller fetches.
type batch struct {
	content *Content
	repo    gitrepo.Repository
	maxSize int64
	yield   func(oid string, data []byte, size int64) error
	// oids to fetch, which this batch has claimed; done says how many it has
	// released again.
	oids []string
	done int
	// damaged lists the blobs that came other than their IDs say.
	damaged []string
}

func (b *batch) key(oid string) objectKey {
	return objectKey{repoKey: keyOf(b.repo), kind: kindBlob, id: oid}
}

// claim yields what the cache has, claims what nobody is fetching, and returns what
// others are.
func (b *batch) claim(oids []string) (map[string]<-chan struct{}, error) {
	others := make(map[string]<-chan struct{})
	for _, oid := range oids {
		value, ok := b.content.lookup(b.key(oid), b.usable)
		if !ok {
			if landed := b.content.flights.claim(b.key(oid)); landed != nil {
				others[oid] = landed
				continue
			}
			// Another's fetch may have ended since the cache was asked.
			if value, ok = b.content.cache.get(b.key(oid)); !ok || !b.usable(value) {
				b.oids = append(b.oids, oid)
				continue
			}
			b.content.flights.release(b.key(oid))
		}
		if err := b.give(oid, value.(blob)); err != nil {
			return nil, err
		}
	}
	return others, nil
}

// usable tells whether a blob of the cache is enough for this batch: it may have been
// too large for whoever fetched it.
func (b *batch) usable(value any) bool {
	found := value.(blob)
	return found.data != nil || found.size > b.maxSize
}

func (b *batch) give(oid string, found blob) error {
	if found.size > b.maxSize {
		return b.yield(oid, nil, found.size)
	}
	return b.yield(oid, found.data, found.size)
}

func (b *batch) release() {
	for _, oid := range b.oids[b.done:] {
		b.content.flights.release(b.key(oid))
	}
	b.done = len(b.oids)
}

func (b *batch) fetch(ctx context.Context) error {
	for b.done < len(b.oids) {
		oids := b.oids[b.done:min(b.done+blobBatch, len(b.oids))]
		if err := b.fetchSome(ctx, oids); err != nil {
			return err
		}
		for _, oid := range oids {
			b.content.flights.release(b.key(oid))
		}
		b.done += len(oids)
	}
	return nil
}

// fetchSome makes one call. A blob may come in several pieces, of which only the
// first bears its ID and size.
func (b *batch) fetchSome(ctx context.Context, oids []string) error {
	doing := fmt.Sprintf("read %d files", len(oids))
	s, err := b.content.pool.session(b.repo.Server)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.content.timeout)
	defer cancel()
	stream, err := gitalypb.NewBlobServiceClient(s).ListBlobs(ctx, &gitalypb.ListBlobsRequest{
		Repository: toGitaly(b.repo.Repository),
		Revisions:  oids,
		BytesLimit: max(b.maxSize, 1), // zero would mean no data at all
	})
	if err != nil {
		return problem(doing, err)
	}
	p := &pieces{missing: make(map[string]struct{}, len(oids)), whole: b.listed}
	for _, oid := range oids {
		p.missing[oid] = struct{}{}
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return problem(doing, err)
		}
		for _, piece := range response.GetBlobs() {
			if err := p.add(piece); err != nil {
				return err
			}
		}
	}
	if err := p.finish(); err != nil {
		return err
	}
	if len(p.missing) > 0 {
		return &gitrepo.UnavailableError{Doing: doing, Err: fmt.Errorf("it left out %d of them", len(p.missing))}
	}
	return b.refetch(ctx, s)
}

// pieces puts blobs together.
type pieces struct {
	missing map[string]struct{} // asked for, and not whole yet
	current *gitalypb.ListBlobsResponse_Blob
	whole   func(*gitalypb.ListBlobsResponse_Blob) error
}

// add takes the next piece: one without an ID belongs to the blob before.
func (p *pieces) add(piece *gitalypb.ListBlobsResponse_Blob) error {
	if piece.GetOid() == "" && p.current != nil {
		p.current.Data = append(p.current.Data, piece.GetData()...)
		return nil
	}
	if err := p.finish(); err != nil {
		return err
	}
	p.current = piece
	return nil
}

// finish hands on the blob that is whole now.
func (p *pieces) finish() error {
	if p.current == nil {
		return nil
	}
	if _, asked := p.missing[p.current.GetOid()]; !asked {
		return nil
	}
	delete(p.missing, p.current.GetOid())
	return p.whole(p.current)
}

// listed takes a blob as ListBlobs sent it.
func (b *batch) listed(piece *gitalypb.ListBlobsResponse_Blob) error {
	oid, data := piece.GetOid(), piece.GetData()
	if piece.GetSize() > b.maxSize {
		return b.arrived(oid, piece.GetSize(), nil)
	}
	if int64(len(data)) != piece.GetSize() || !intact(oid, data) {
		b.damaged = append(b.damaged, oid)
		return nil
	}
	return b.arrived(oid, piece.GetSize(), append(make([]byte, 0, len(data)), data...))
}

// arrived keeps a whole blob and gives it to the caller. data is nil where the blob
// is too large.
func (b *batch) arrived(oid string, size int64, data []byte) error {
	b.content.fetched.Inc()
	b.content.bytes.Add(float64(len(data)))
	found := blob{size: size, data: data}
	b.content.cache.put(b.key(oid), found, int64(len(data)))
	return b.give(oid, found)
}
