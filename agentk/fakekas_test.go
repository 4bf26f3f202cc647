package agentk

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/wstransport"
)

// fakeKAS plays kas over a real connection. It can be stopped and started again on
// the same port.
type fakeKAS struct {
	agentrpc.UnimplementedAgentConfigurationServer
	agentrpc.UnimplementedSyncServer
	tunnel fakeTunnel

	address string
	tls     *tls.Config
	// webSocket has agents connect by it.
	webSocket bool
	server    *grpc.Server
	served    chan struct{}

	configs desired.Slot[*agentrpc.WatchResponse]

	mu       sync.Mutex
	token    string
	sets     map[string][]*agentrpc.ConnectResponse // by project
	changed  chan struct{}
	watches  []*agentrpc.WatchRequest
	hellos   []*agentrpc.Hello
	reports  map[string]*agentrpc.Report // newest by project
	traced   []string                    // traceparents of all
	attempts int
	// results of commands by their IDs, and answers to comparisons.
	results     map[string]*agentrpc.CommandResult
	comparisons []*agentrpc.Comparison
}

func startFakeKAS(t *testing.T, tlsConfig *tls.Config) *fakeKAS {
	t.Helper()
	return startFakeKASOver(t, tlsConfig, false)
}

func startFakeKASOver(t *testing.T, tlsConfig *tls.Config, webSocket bool) *fakeKAS {
	t.Helper()
	k := &fakeKAS{
		address: "127.0.0.1:0", tls: tlsConfig, webSocket: webSocket, token: "secret",
		sets: map[string][]*agentrpc.ConnectResponse{}, changed: make(chan struct{}), reports: map[string]*agentrpc.Report{},
		results: map[string]*agentrpc.CommandResult{},
		tunnel:  fakeTunnel{opened: make(chan agentrpc.ReverseTunnel_ConnectServer, 10)},
	}
	k.start(t)
	t.Cleanup(k.stop)
	return k
}

func (k *fakeKAS) start(t *testing.T) {
	t.Helper()
	var l net.Listener
	testkit.Eventually(t, func() (err error) { // while it was stopped, somebody's connection may have got the port
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", k.address)
		return err
	})
	k.address = l.Addr().String()
	creds := insecure.NewCredentials()
	if k.tls != nil && !k.webSocket {
		creds = credentials.NewTLS(k.tls)
	}
	upgraded := func() {} // waits for the end of the WebSockets' listener
	if k.webSocket {
		w := wstransport.NewListener(l, wstransport.ListenerConfig{TLS: k.tls})
		ended := make(chan error, 1)
		go func() { ended <- w.Run(context.WithoutCancel(t.Context())) }()
		l, upgraded = w, func() { <-ended }
	}
	k.server = grpc.NewServer(grpc.Creds(creds), grpc.WaitForHandlers(true))
	agentrpc.RegisterAgentConfigurationServer(k.server, k)
	agentrpc.RegisterSyncServer(k.server, k)
	agentrpc.RegisterReverseTunnelServer(k.server, &k.tunnel)
	k.served = make(chan struct{})
	go func() {
		defer close(k.served)
		_ = k.server.Serve(l)
		upgraded()
	}()
}

// stop ends kas at once, as if killed.
func (k *fakeKAS) stop() {
	k.server.Stop()
	<-k.served
}

func (k *fakeKAS) authorize(ctx context.Context) error {
	token, err := grpctool.BearerToken(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.attempts++
	if err != nil || token != k.token {
		return status.Error(codes.Unauthenticated, "unknown token")
	}
	return nil
}

func (k *fakeKAS) Watch(req *agentrpc.WatchRequest, stream agentrpc.AgentConfiguration_WatchServer) error {
	if err := k.authorize(stream.Context()); err != nil {
		return err
	}
	k.mu.Lock()
	k.watches = append(k.watches, req)
	k.mu.Unlock()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		cfg, filled, newer := k.configs.Get()
		if filled {
			if err := stream.Send(cfg); err != nil {
				return err
			}
		}
		select {
		case <-newer:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (k *fakeKAS) Connect(stream agentrpc.Sync_ConnectServer) error {
	if err := k.authorize(stream.Context()); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "no hello")
	}
	project := hello.GetProject().GetId()
	k.mu.Lock()
	k.hellos = append(k.hellos, hello)
	k.mu.Unlock()
	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			k.mu.Lock()
			switch m := m.GetMessage().(type) {
			case *agentrpc.ConnectRequest_Report:
				k.reports[project] = m.Report
				k.traced = append(k.traced, m.Report.GetTraceparent())
			case *agentrpc.ConnectRequest_CommandResult:
				k.results[m.CommandResult.GetId()] = m.CommandResult
			case *agentrpc.ConnectRequest_Comparison:
				k.comparisons = append(k.comparisons, m.Comparison)
			}
			k.mu.Unlock()
		}
	}()
	var sent []*agentrpc.ConnectResponse
	for {
		k.mu.Lock()
		set, changed := k.sets[project], k.changed
		k.mu.Unlock()
		if len(set) > 0 && (len(sent) == 0 || &sent[0] != &set[0]) {
			sent = set
			for _, m := range set {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		}
		select {
		case <-changed:
		case <-received:
			return nil
		}
	}
}

// configure has the agent follow projects.
func (k *fakeKAS) configure(agentID int64, projects ...*agentcfg.ManifestProject) {
	k.configs.Put(&agentrpc.WatchResponse{
		AgentId: agentID, AgentName: "sandbox", ProjectId: 1, CommitId: "config",
		Configuration: &agentcfg.ConfigurationFile{Gitops: &agentcfg.Gitops{ManifestProjects: projects}},
	})
}

// push sends messages to the project's streams, and at the opening of further ones.
func (k *fakeKAS) push(project string, messages ...*agentrpc.ConnectResponse) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sets[project] = messages
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *fakeKAS) setToken(token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.token = token
}

// traceparents of all reports that have come.
func (k *fakeKAS) traceparents() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.traced)
}

// report returns the newest report of a project; nil: none yet.
func (k *fakeKAS) report(project string) *agentrpc.Report {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reports[project]
}

func (k *fakeKAS) seen() (watches []*agentrpc.WatchRequest, hellos []*agentrpc.Hello, attempts int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append(watches, k.watches...), append(hellos, k.hellos...), k.attempts
}

// aSet is the messages of a whole set of ConfigMaps.
func aSet(commit string, projectID int64, names ...string) []*agentrpc.ConnectResponse {
	objects, refs := &agentrpc.Objects{}, &agentrpc.Refs{}
	for _, name := range names {
		json := []byte(fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q}}`, name))
		sum := sha256.Sum256(json)
		objects.Objects = append(objects.Objects, &agentrpc.Object{Digest: sum[:], Json: json})
		refs.Refs = append(refs.Refs, &agentrpc.Ref{Digest: sum[:], SourcePath: name + ".yaml", SourceLine: 1})
	}
	return []*agentrpc.ConnectResponse{
		{Message: &agentrpc.ConnectResponse_Header{Header: &agentrpc.Header{CommitId: commit, Ref: "branch main", ProjectId: projectID}}},
		{Message: &agentrpc.ConnectResponse_Objects{Objects: objects}},
		{Message: &agentrpc.ConnectResponse_Refs{Refs: refs}},
		{Message: &agentrpc.ConnectResponse_Trailer{Trailer: &agentrpc.Trailer{RefsCount: uint32(len(names)), Complete: true}}},
	}
}
