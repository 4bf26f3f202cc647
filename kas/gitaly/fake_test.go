package gitaly_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/gitaly"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func oid(s string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(s), s)) // as Git does
	return hex.EncodeToString(sum[:])
}

// fake is a Gitaly server with one repository in memory, "a.git". It answers as a
// real one of version 14.10 does, odd corners included.
type fake struct {
	gitalypb.UnimplementedSmartHTTPServiceServer
	gitalypb.UnimplementedCommitServiceServer
	gitalypb.UnimplementedBlobServiceServer

	mu       sync.Mutex
	head     string                       // branch
	refs     map[string]string            // full name -> object ID
	commits  map[string]map[string]string // commit ID -> path -> content
	broken   error
	damage   map[string]bool // IDs of blobs that ListBlobs sends with a wrong content
	hold     chan struct{}   // calls of the blob and tree services wait for it
	slow     func()          // called by polls, unless nil
	calls    map[string]int
	batches  []int // number of blobs of each ListBlobs
	metadata metadata.MD
}

func newFake() *fake {
	return &fake{head: "main", refs: map[string]string{}, commits: map[string]map[string]string{}, calls: map[string]int{}}
}

// commit moves a ref to a new commit, and returns its ID.
func (f *fake) commit(ref, name string, files map[string]string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs[ref] = oid(name)
	f.commits[oid(name)] = files
	return oid(name)
}

func (f *fake) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
}

func (f *fake) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// enter notes a call, and fails it where it must.
func (f *fake) enter(ctx context.Context, method string, repository *gitalypb.Repository) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	f.metadata, _ = metadata.FromIncomingContext(ctx)
	switch {
	case f.broken != nil:
		return f.broken
	case repository.GetRelativePath() != "a.git":
		return status.Error(codes.NotFound, "GetRepoPath: not a git repository")
	}
	return nil
}

func (f *fake) wait(ctx context.Context) error {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold == nil {
		return nil
	}
	select {
	case <-hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func pkt(line string) string { return fmt.Sprintf("%04x%s", len(line)+4, line) }

func (f *fake) InfoRefsUploadPack(request *gitalypb.InfoRefsRequest, stream gitalypb.SmartHTTPService_InfoRefsUploadPackServer) error {
	if err := f.enter(stream.Context(), "InfoRefsUploadPack", request.GetRepository()); err != nil {
		return err
	}
	f.mu.Lock()
	if f.slow != nil {
		f.slow()
	}
	var out strings.Builder
	out.WriteString(pkt("# service=git-upload-pack\n") + "0000")
	capabilities := "\x00multi_ack side-band-64k symref=HEAD:refs/heads/" + f.head + " object-format=sha1"
	if id, ok := f.refs["refs/heads/"+f.head]; ok {
		out.WriteString(pkt(id + " HEAD" + capabilities + "\n"))
		capabilities = ""
	}
	for _, name := range slices.Sorted(maps.Keys(f.refs)) {
		out.WriteString(pkt(f.refs[name] + " " + name + capabilities + "\n"))
		capabilities = ""
	}
	out.WriteString("0000")
	f.mu.Unlock()
	for data := out.String(); data != ""; { // in awkward pieces
		n := min(7, len(data))
		if err := stream.Send(&gitalypb.InfoRefsResponse{Data: []byte(data[:n])}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (f *fake) FindCommit(ctx context.Context, request *gitalypb.FindCommitRequest) (*gitalypb.FindCommitResponse, error) {
	if err := f.enter(ctx, "FindCommit", request.GetRepository()); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.commits[string(request.GetRevision())]; !ok {
		return &gitalypb.FindCommitResponse{}, nil
	}
	return &gitalypb.FindCommitResponse{Commit: &gitalypb.GitCommit{Id: string(request.GetRevision())}}, nil
}

func (f *fake) GetTreeEntries(request *gitalypb.GetTreeEntriesRequest, stream gitalypb.CommitService_GetTreeEntriesServer) error {
	if err := f.enter(stream.Context(), "GetTreeEntries", request.GetRepository()); err != nil {
		return err
	}
	if err := f.wait(stream.Context()); err != nil {
		return err
	}
	if string(request.GetPath()) != "." || !request.GetRecursive() {
		return status.Error(codes.InvalidArgument, "the fake only lists everything")
	}
	f.mu.Lock()
	files := f.commits[string(request.GetRevision())]
	f.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		e := &gitalypb.TreeEntry{Oid: oid(files[path]), Path: []byte(path), Type: gitalypb.TreeEntry_BLOB, Mode: 0o100644}
		switch {
		case strings.HasPrefix(path, "link"):
			e.Mode = 0o120000
		case strings.HasPrefix(path, "sub"):
			e.Type, e.Mode = gitalypb.TreeEntry_COMMIT, 0o160000
		case strings.HasSuffix(path, "/"):
			e.Type, e.Mode = gitalypb.TreeEntry_TREE, 0o40000
		case strings.HasSuffix(path, ".sh"):
			e.Mode = 0o100755
		}
		if err := stream.Send(&gitalypb.GetTreeEntriesResponse{Entries: []*gitalypb.TreeEntry{e}}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) TreeEntry(request *gitalypb.TreeEntryRequest, stream gitalypb.CommitService_TreeEntryServer) error {
	if err := f.enter(stream.Context(), "TreeEntry", request.GetRepository()); err != nil {
		return err
	}
	f.mu.Lock()
	content, ok := f.commits[string(request.GetRevision())][string(request.GetPath())]
	f.mu.Unlock()
	if !ok {
		return status.Errorf(codes.NotFound, "not found: %s", request.GetPath())
	}
	response := &gitalypb.TreeEntryResponse{Type: gitalypb.TreeEntryResponse_BLOB, Oid: oid(content), Size: int64(len(content)), Mode: 0o100644}
	if strings.HasPrefix(string(request.GetPath()), "link") {
		response.Mode = 0o120000
	}
	data := []byte(content)[:min(len(content), int(request.GetLimit()))]
	for first := true; first || len(data) > 0; first = false {
		n := min(3, len(data))
		response.Data, data = data[:n], data[n:]
		if err := stream.Send(response); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) ListBlobs(request *gitalypb.ListBlobsRequest, stream gitalypb.BlobService_ListBlobsServer) error {
	if err := f.enter(stream.Context(), "ListBlobs", request.GetRepository()); err != nil {
		return err
	}
	if err := f.wait(stream.Context()); err != nil {
		return err
	}
	f.mu.Lock()
	f.batches = append(f.batches, len(request.GetRevisions()))
	contents := map[string]string{}
	for _, files := range f.commits {
		for _, content := range files {
			contents[oid(content)] = content
		}
	}
	f.mu.Unlock()
	for _, revision := range request.GetRevisions() {
		content, ok := contents[revision]
		if !ok {
			return status.Error(codes.Internal, "bad object "+revision)
		}
		blob := &gitalypb.ListBlobsResponse_Blob{Oid: revision, Size: int64(len(content))}
		data := []byte(content)[:min(len(content), int(request.GetBytesLimit()))]
		if f.damage[revision] {
			data[0]++
		}
		for first := true; first || len(data) > 0; first = false { // in pieces; only the first says whose
			n := min(1<<20, len(data))
			blob.Data, data = data[:n], data[n:]
			if err := stream.Send(&gitalypb.ListBlobsResponse{Blobs: []*gitalypb.ListBlobsResponse_Blob{blob}}); err != nil {
				return err
			}
			blob = &gitalypb.ListBlobsResponse_Blob{}
		}
	}
	return nil
}

func (f *fake) GetBlob(request *gitalypb.GetBlobRequest, stream gitalypb.BlobService_GetBlobServer) error {
	if err := f.enter(stream.Context(), "GetBlob", request.GetRepository()); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, files := range f.commits {
		for _, content := range files {
			if oid(content) != request.GetOid() {
				continue
			}
			half := len(content) / 2
			if err := stream.Send(&gitalypb.GetBlobResponse{Oid: request.GetOid(), Size: int64(len(content)), Data: []byte(content[:half])}); err != nil {
				return err
			}
			return stream.Send(&gitalypb.GetBlobResponse{Data: []byte(content[half:])})
		}
	}
	return stream.Send(&gitalypb.GetBlobResponse{})
}

// serve starts f, and returns a pool that reaches it under any address.
func (f *fake) serve(t *testing.T, config gitaly.PoolConfig) *gitaly.Pool {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	gitalypb.RegisterSmartHTTPServiceServer(server, f)
	gitalypb.RegisterCommitServiceServer(server, f)
	gitalypb.RegisterBlobServiceServer(server, f)
	served := make(chan error, 1)
	go func() { served <- testkit.Serve(server, listener) }()
	config.Options = append(config.Options, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return listener.DialContext(ctx)
	}))
	pool := gitaly.NewPool(config, prometheus.NewRegistry())
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return pool
}

var repo = gitrepo.Repository{
	Server:     gitlabapi.GitalyInfo{Address: "unix:/gitaly", Token: "secret"},
	Repository: gitlabapi.GitalyRepository{StorageName: "default", RelativePath: "a.git", GlProjectPath: "group/a"},
}

const period = 20 * time.Second
