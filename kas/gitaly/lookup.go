package gitaly

import (
	"context"
	"errors"
	"io"

	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/gitrepo"
)

// lookup asks Gitaly once which commit ref names. It returns the ref, with the
// default branch resolved.
func (p *Pool) lookup(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref) (gitrepo.Ref, string, error) {
	const doing = "look up the ref"
	s, err := p.session(repo.Server)
	if err != nil {
		return ref, "", err
	}
	if ref.Commit != "" {
		return s.commit(ctx, repo, ref)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := gitalypb.NewSmartHTTPServiceClient(s).InfoRefsUploadPack(ctx, &gitalypb.InfoRefsRequest{
		Repository: toGitaly(repo.Repository),
	})
	if err != nil {
		return ref, "", problem(doing, err)
	}
	found, commitID, err := findRef(&chunkReader{next: func() ([]byte, error) {
		response, err := stream.Recv()
		return response.GetData(), err
	}}, ref)
	// The rest is read, too: Gitaly caches an answer only when all of it was taken,
	// and without its cache each poll would cost a run of git.
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	var missing *gitrepo.RefNotFoundError
	if errors.Is(err, gitrepo.ErrEmpty) || errors.As(err, &missing) {
		return found, "", err
	}
	return found, commitID, problem(doing, err)
}

func (s *session) commit(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref) (gitrepo.Ref, string, error) {
	response, err := gitalypb.NewCommitServiceClient(s).FindCommit(ctx, &gitalypb.FindCommitRequest{
		Repository: toGitaly(repo.Repository),
		Revision:   []byte(ref.Commit),
	})
	switch {
	case status.Code(err) == codes.InvalidArgument:
		return ref, "", &gitrepo.RefNotFoundError{Ref: ref}
	case err != nil:
		return ref, "", problem("look up the commit", err)
	case response.GetCommit() == nil:
		return ref, "", &gitrepo.RefNotFoundError{Ref: ref}
	default:
		return ref, response.GetCommit().GetId(), nil
	}
}

// chunkReader reads the bytes of a stream's messages.
type chunkReader struct {
	next func() ([]byte, error)
	rest []byte
}

var _ io.Reader = (*chunkReader)(nil)

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		data, err := r.next()
		if err != nil {
			return 0, err
		}
		r.rest = data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
