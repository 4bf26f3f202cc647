package scale

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/bench/objects"
	"github.com/kas-agentk/kas/internal/grpctool"
)

const (
	agentID    = 1
	projectID  = 2
	projectRef = "platform/manifests"
)

// kas plays kas for one agent with one project.
type kas struct {
	agentrpc.UnimplementedAgentConfigurationServer
	agentrpc.UnimplementedSyncServer

	mu sync.Mutex
	// set is what the agent is to hold, commit its name.
	set    []objects.Object
	commit string
	// report is the newest of the stream that is open.
	report *agentrpc.Report
	// changed is closed, and replaced, when anything above changes.
	changed chan struct{}
}

func newKAS() *kas { return &kas{changed: make(chan struct{})} }

// run serves until ctx ends.
func (k *kas) run(ctx context.Context, l net.Listener) error {
	// As kas has it: agentk pings.
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: 5 * time.Second, PermitWithoutStream: true,
	}))
	agentrpc.RegisterAgentConfigurationServer(server, k)
	agentrpc.RegisterSyncServer(server, k)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		server.Stop()
	})
	err := server.Serve(l)
	if stop() {
		return fmt.Errorf("serve: %w", err)
	}
	<-stopped
	return nil
}

// update changes what is guarded and says so.
func (k *kas) update(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
	close(k.changed)
	k.changed = make(chan struct{})
}

// push has the agent hold the set.
func (k *kas) push(commit string, set []objects.Object) {
	k.update(func() { k.commit, k.set = commit, set })
}

// await returns when the agent has applied all objects of the commit.
func (k *kas) await(ctx context.Context, commit string) error {
	for {
		k.mu.Lock()
		report, changed := k.report, k.changed
		k.mu.Unlock()
		if report.GetCommitId() == commit && report.GetAppliedCommitId() == commit && report.GetState() != syncstatus.State_STATE_SYNCING {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for agentk to apply commit %s, it says %s %q: %w",
				commit, report.GetState(), report.GetMessage(), ctx.Err())
		}
	}
}

// Watch implements agentrpc.AgentConfigurationServer.
func (k *kas) Watch(_ *agentrpc.WatchRequest, stream agentrpc.AgentConfiguration_WatchServer) error {
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err //nolint:wrapcheck // a status of gRPC
	}
	err := stream.Send(&agentrpc.WatchResponse{
		AgentId: agentID, AgentName: "bench", ProjectId: 1, CommitId: "configuration",
		Configuration: &agentcfg.ConfigurationFile{Gitops: &agentcfg.Gitops{
			ManifestProjects: []*agentcfg.ManifestProject{{Id: projectRef}},
		}},
	})
	if err != nil {
		return err //nolint:wrapcheck // a status of gRPC
	}
	<-stream.Context().Done()
	return nil
}

// Connect implements agentrpc.SyncServer.
func (k *kas) Connect(stream agentrpc.Sync_ConnectServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err //nolint:wrapcheck // a status of gRPC
	}
	if first.GetHello() == nil {
		return status.Error(codes.InvalidArgument, "no hello")
	}
	held := make(map[string]struct{}, len(first.GetHello().GetDigests()))
	for _, d := range first.GetHello().GetDigests() {
		held[string(d)] = struct{}{}
	}
	k.update(func() { k.report = nil })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.listen(stream)
	}()
	sent := ""
	for {
		k.mu.Lock()
		commit, set, changed := k.commit, k.set, k.changed
		k.mu.Unlock()
		if commit != sent {
			sent = commit
			if held, err = send(stream, commit, set, held); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ended:
			return nil
		}
	}
}

// listen keeps the newest report until the stream ends.
func (k *kas) listen(stream agentrpc.Sync_ConnectServer) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		if r := m.GetReport(); r != nil && !r.GetMore() {
			r.Objects = nil
			k.update(func() { k.report = r })
		}
	}
}

// send sends a whole set, without what is held, and returns what is held then.
func send(stream agentrpc.Sync_ConnectServer, commit string, set []objects.Object, held map[string]struct{}) (map[string]struct{}, error) {
	header := &agentrpc.Header{
		CommitId: commit, Ref: "branch main", Mode: agentrpc.Mode_MODE_DELTA, ProjectId: projectID, ProjectPath: projectRef,
	}
	err := stream.Send(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Header{Header: header}})
	now := make(map[string]struct{}, len(set))
	chunk, size := &agentrpc.Objects{}, 0
	refs := make([]*agentrpc.Ref, 0, len(set))
	flush := func() {
		if err == nil && size > 0 {
			err = stream.Send(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Objects{Objects: chunk}})
		}
		chunk, size = &agentrpc.Objects{}, 0
	}
	for i := range set {
		digest := sha256.Sum256(set[i].JSON)
		key := string(digest[:])
		refs = append(refs, &agentrpc.Ref{Digest: digest[:], SourcePath: "all.yaml", SourceLine: uint32(i + 1)})
		now[key] = struct{}{}
		if _, ok := held[key]; ok {
			continue
		}
		chunk.Objects = append(chunk.Objects, &agentrpc.Object{Digest: digest[:], Json: set[i].JSON})
		if size += len(set[i].JSON) + 64; size > grpctool.ChunkSize {
			flush()
		}
	}
	flush()
	const refsPerMessage = 5000
	for at := 0; at < len(refs) && err == nil; at += refsPerMessage {
		part := &agentrpc.Refs{Refs: refs[at:min(at+refsPerMessage, len(refs))]}
		err = stream.Send(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Refs{Refs: part}})
	}
	if err == nil {
		trailer := &agentrpc.Trailer{RefsCount: uint32(len(refs)), Complete: true}
		err = stream.Send(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Trailer{Trailer: trailer}})
	}
	return now, err //nolint:wrapcheck // a status of gRPC
}
