package kas

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"google.golang.org/grpc"
)

// fakeGitaly keeps one repository of many files, and answers for every path below
// .gitlab/agents/ with the same agent's configuration.
type fakeGitaly struct {
	gitalypb.UnimplementedSmartHTTPServiceServer
	gitalypb.UnimplementedCommitServiceServer
	gitalypb.UnimplementedBlobServiceServer

	configuration string

	mu     sync.Mutex
	commit string
	files  map[string]string // content by path
	blobs  map[string]string // content by ID
}

func blobID(content string) string {
	sum := sha1.Sum([]byte(fmt.Sprintf("blob %d\x00%s", len(content), content)))
	return hex.EncodeToString(sum[:])
}

// serve listens until the test ends and returns the address for Gitaly's clients.
func (f *fakeGitaly) serve(tb testing.TB) string {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "gitaly")
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	gitalypb.RegisterSmartHTTPServiceServer(server, f)
	gitalypb.RegisterCommitServiceServer(server, f)
	gitalypb.RegisterBlobServiceServer(server, f)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	tb.Cleanup(func() {
		server.Stop()
		<-done
	})
	return "unix:" + socket
}

// put changes files and moves the branch.
func (f *fakeGitaly) put(files map[string]string) (commit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files, f.blobs = map[string]string{}, map[string]string{}
	}
	for path, content := range files {
		f.files[path] = content
		f.blobs[blobID(content)] = content
		f.commit = blobID(f.commit + content) // any ID will do
	}
	return f.commit
}

func (f *fakeGitaly) InfoRefsUploadPack(_ *gitalypb.InfoRefsRequest, stream gitalypb.SmartHTTPService_InfoRefsUploadPackServer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := f.commit + " HEAD\x00symref=HEAD:refs/heads/main\n"
	return stream.Send(&gitalypb.InfoRefsResponse{Data: []byte(fmt.Sprintf("001e# service=git-upload-pack\n0000%04x%s0000", len(line)+4, line))})
}

func (f *fakeGitaly) GetTreeEntries(_ *gitalypb.GetTreeEntriesRequest, stream gitalypb.CommitService_GetTreeEntriesServer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var entries []*gitalypb.TreeEntry
	for _, path := range slices.Sorted(maps.Keys(f.files)) {
		entries = append(entries, &gitalypb.TreeEntry{Path: []byte(path), Oid: blobID(f.files[path]), Mode: 0o100644, Type: gitalypb.TreeEntry_BLOB})
	}
	return stream.Send(&gitalypb.GetTreeEntriesResponse{Entries: entries})
}

func (f *fakeGitaly) ListBlobs(request *gitalypb.ListBlobsRequest, stream gitalypb.BlobService_ListBlobsServer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, oid := range request.GetRevisions() {
		content := f.blobs[oid]
		if err := stream.Send(&gitalypb.ListBlobsResponse{Blobs: []*gitalypb.ListBlobsResponse_Blob{
			{Oid: oid, Size: int64(len(content)), Data: []byte(content)},
		}}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeGitaly) TreeEntry(request *gitalypb.TreeEntryRequest, stream gitalypb.CommitService_TreeEntryServer) error {
	if !strings.HasPrefix(string(request.GetPath()), ".gitlab/agents/") {
		return stream.Send(&gitalypb.TreeEntryResponse{})
	}
	return stream.Send(&gitalypb.TreeEntryResponse{
		Type: gitalypb.TreeEntryResponse_BLOB, Oid: blobID(f.configuration), Mode: 0o100644,
		Size: int64(len(f.configuration)), Data: []byte(f.configuration),
	})
}
