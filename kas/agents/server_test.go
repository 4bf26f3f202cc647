package agents

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/testkit"
)

const path = ".gitlab/agents/seven/config.yaml"

// fakeFiles is a repository: contents of the configuration file by commit.
type fakeFiles struct {
	mu        sync.Mutex
	revision  gitrepo.Revision
	contents  map[string]string // by commit; none: no such file
	broken    error             // of File
	followers []func(gitrepo.Revision)
	followed  int // how many times Follow was called
	reads     int
}

func (f *fakeFiles) Follow(_ context.Context, _ gitrepo.Repository, ref gitrepo.Ref, _ time.Duration, notify func(gitrepo.Revision)) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ref != (gitrepo.Ref{}) { // not the default branch
		return func() {}
	}
	f.followed++
	f.followers = append(f.followers, notify)
	notify(f.revision)
	return func() {}
}

func (f *fakeFiles) File(_ context.Context, _ gitrepo.Repository, commit, name string, maxSize int64) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if f.broken != nil {
		return nil, f.broken
	}
	content, ok := f.contents[commit]
	switch {
	case !ok || name != path:
		return nil, gitrepo.ErrFileNotFound
	case int64(len(content)) > maxSize:
		return nil, &gitrepo.TooLargeError{Path: name, Size: int64(len(content)), Limit: maxSize}
	}
	return []byte(content), nil
}

// move makes the default branch name a revision.
func (f *fakeFiles) move(r gitrepo.Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revision = r
	for _, notify := range f.followers {
		notify(r)
	}
}

// fakeStatus keeps what it is told.
type fakeStatus struct {
	mu       sync.Mutex
	present  int
	cfg      *syncstatus.ConfigurationStatus
	projects []string
}

func (s *fakeStatus) Arrived(gitlabapi.AgentInfo) { s.mu.Lock(); s.present++; s.mu.Unlock() }
func (s *fakeStatus) Left(gitlabapi.AgentInfo)    { s.mu.Lock(); s.present--; s.mu.Unlock() }

func (s *fakeStatus) Configuration(_ gitlabapi.AgentInfo, cfg *syncstatus.ConfigurationStatus, projects []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg, s.projects = cfg, projects
}

// wait waits until the newest status is this.
func (s *fakeStatus) wait(t *testing.T, commit, mistake string, projects []string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		var text string
		if e := s.cfg.GetError(); e != nil {
			text = fmt.Sprintf("%s:%d: %s", e.GetPath(), e.GetLine(), e.GetMessage())
		}
		if s.cfg.GetCommitId() != commit || !strings.HasPrefix(text, mistake) || (mistake == "") != (text == "") {
			return fmt.Errorf("commit %q, mistake %q", s.cfg.GetCommitId(), text)
		}
		if diff := cmp.Diff(projects, s.projects); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// house is a server with everything around it.
type house struct {
	rails    *fakeRails
	files    *fakeFiles
	status   *fakeStatus
	clock    *clocktesting.FakeClock
	registry *Registry
	server   *Server
	client   agentrpc.AgentConfigurationClient
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{rails: newFakeRails(), files: &fakeFiles{contents: map[string]string{}}, status: &fakeStatus{}}
	access, clock := newAccess(t, h.rails)
	h.clock = clock
	registry, err := NewRegistry(clock, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	h.registry = registry
	h.server = NewServer(ServerConfig{PollPeriod: time.Second, MaxFileSize: 1000, Clock: clock}, Collaborators{
		Access: access, Registry: registry, Files: h.files, Reporter: h.rails, Status: h.status, Log: testkit.Logger(t),
	})
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	agentrpc.RegisterAgentConfigurationServer(server, h.server)
	listener := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- testkit.Serve(server, listener) }()
	conn, err := grpc.NewClient("passthrough:kas",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	h.client = agentrpc.NewAgentConfigurationClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h
}

type watch struct {
	t      *testing.T
	stream grpc.ServerStreamingClient[agentrpc.WatchResponse]
	hangUp context.CancelFunc
}

func (h *house) watch(t *testing.T, token string, req *agentrpc.WatchRequest) *watch {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token))
	t.Cleanup(cancel)
	stream, err := h.client.Watch(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return &watch{t: t, stream: stream, hangUp: cancel}
}

// next is the next configuration: its commit and projects.
func (w *watch) next() (commit string, projects []string) {
	w.t.Helper()
	got, err := w.stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	if got.GetAgentId() != 7 || got.GetAgentName() != "seven" || got.GetProjectId() != 3 {
		w.t.Errorf("got %v", got)
	}
	for _, p := range got.GetConfiguration().GetGitops().GetManifestProjects() {
		if p.GetDefaultNamespace() != "default" || !p.GetPrune() {
			w.t.Errorf("no defaults in %v", p)
		}
		projects = append(projects, p.GetId())
	}
	return got.GetCommitId(), projects
}

func (w *watch) expect(commit string, projects ...string) {
	w.t.Helper()
	got, ids := w.next()
	if got != commit || !slices.Equal(ids, projects) {
		w.t.Fatalf("got %s %v, want %s %v", got, ids, commit, projects)
	}
}

func (w *watch) end() error {
	_, err := w.stream.Recv()
	return err
}

func at(commit string) gitrepo.Revision { return gitrepo.Revision{CommitID: commit} }

func following(ids ...string) string {
	return "gitops: {manifest_projects: [{id: " + strings.Join(ids, "}, {id: ") + "}]}\n"
}

// The commits of the tests.
var (
	c1 = strings.Repeat("1", 40)
	c2 = strings.Repeat("2", 40)
	c3 = strings.Repeat("3", 40)
)

func (h *house) commit(commit, content string) {
	h.files.mu.Lock()
	h.files.contents[commit] = content
	h.files.mu.Unlock()
	h.files.move(at(commit))
}

func TestWatch_SendsWhatIsInForceAndWhatChanges(t *testing.T) {
	h := newHouse(t)
	h.commit(c1, following("a", "b"))
	w := h.watch(t, "good", &agentrpc.WatchRequest{})
	w.expect(c1, "a", "b")
	h.status.wait(t, c1, "", []string{"a", "b"})
	// A commit that leaves the file alone is no news for the agent.
	h.commit(c2, following("a", "b")+"# only words\n")
	h.status.wait(t, c2, "", []string{"a", "b"})
	h.commit(c3, following("b"))
	w.expect(c3, "b")
	testkit.Eventually(t, func() error {
		h.rails.mu.Lock()
		defer h.rails.mu.Unlock()
		if n := len(h.rails.configs); n != 2 {
			return fmt.Errorf("RoR was told %d configurations", n)
		}
		if ns := h.rails.configs[1].GetGitops().GetManifestProjects()[0].GetDefaultNamespace(); ns != "" {
			return fmt.Errorf("RoR was told a default: %q", ns)
		}
		return nil
	})
}

func TestWatch_BrokenFileLeavesTheLastGoodOneInForce(t *testing.T) {
	h := newHouse(t)
	h.commit(c1, following("a"))
	w := h.watch(t, "good", &agentrpc.WatchRequest{})
	w.expect(c1, "a")
	h.commit(c2, "gitops:\n  manifest_projectz: []\n")
	h.status.wait(t, c1, path+`:2: unknown field "manifest_projectz"`, []string{"a"})
	h.commit(c2, strings.Repeat("#", 1001))
	h.status.wait(t, c1, path+":0: "+path+" has 1001 bytes, more than the limit of 1000", []string{"a"})

	// Also for an agent that comes back while nobody watched.
	w.hangUp()
	h.away(t)
	w = h.watch(t, "good", &agentrpc.WatchRequest{})
	w.expect(c1, "a")
	h.commit(c3, following("b"))
	w.expect(c3, "b")
	h.status.wait(t, c3, "", []string{"b"})
}

// away waits until the agent has no feed any more.
func (h *house) away(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, func() error {
		h.status.mu.Lock()
		defer h.status.mu.Unlock()
		if h.status.present != 0 {
			return errors.New("still there")
		}
		return nil
	})
}

func TestWatch_AfterARestartTheAgentsOwnConfigurationIsTheLastGoodOne(t *testing.T) {
	h := newHouse(t)
	h.files.contents[c1] = following("a")
	h.commit(c2, "broken: [")
	w := h.watch(t, "good", &agentrpc.WatchRequest{CommitId: c1})
	w.expect(c1, "a")
	h.status.wait(t, c1, path+":1: ", []string{"a"})
}

func TestWatch_NothingIsSentWhereNothingIsGood(t *testing.T) {
	h := newHouse(t)
	h.files.contents[c1] = "broken too: ["
	h.commit(c2, "broken: [")
	w := h.watch(t, "good", &agentrpc.WatchRequest{CommitId: c1})
	h.status.wait(t, c1, path+":1: ", nil)
	h.commit(c3, following("b"))
	w.expect(c3, "b") // the first that came
}

func TestWatch_TheAgentKnowsThatItIsLetInBeforeThereIsAConfiguration(t *testing.T) {
	h := newHouse(t)
	h.commit(c1, "gitopz: {}\n")
	header, err := h.watch(t, "good", &agentrpc.WatchRequest{}).stream.Header()
	if err != nil || header == nil {
		t.Errorf("got header %v, %v", header, err)
	}
}

func TestWatch_MissingFileIsAnEmptyConfiguration(t *testing.T) {
	h := newHouse(t)
	h.files.move(at(c1))
	w := h.watch(t, "good", &agentrpc.WatchRequest{})
	w.expect(c1)
	h.status.wait(t, c1, path+":0: the configuration project has no such file: create "+path, []string{})
	h.commit(c2, following("a"))
	w.expect(c2, "a")
	h.status.wait(t, c2, "", []string{"a"})
}

func TestWatch_EmptyRepositoryIsAnEmptyConfiguration(t *testing.T) {
	h := newHouse(t)
	h.files.move(gitrepo.Revision{Problem: gitrepo.ErrEmpty})
	h.watch(t, "good", &agentrpc.WatchRequest{}).expect("")
	h.status.wait(t, "", path+":0: the configuration project has no commit yet", []string{})
}

func TestWatch_TroubleWithGitalyPasses(t *testing.T) {
	h := newHouse(t)
	h.files.revision = gitrepo.Revision{Problem: &gitrepo.UnavailableError{Doing: "poll", Err: errors.New("refused")}}
	w := h.watch(t, "good", &agentrpc.WatchRequest{CommitId: c1})
	h.status.wait(t, c1, path+":0: the agent's configuration cannot be read: Gitaly: poll: refused", nil)
	h.files.mu.Lock()
	h.files.broken = &gitrepo.UnavailableError{Doing: "read", Err: errors.New("reset")}
	h.files.mu.Unlock()
	h.commit(c1, following("a"))
	h.status.wait(t, c1, path+":0: the agent's configuration cannot be read: Gitaly: read: reset", nil)
	h.files.mu.Lock()
	h.files.broken = nil
	h.files.mu.Unlock()
	testkit.Eventually(t, func() error { // the retry is on the clock
		h.clock.Step(time.Second)
		h.status.mu.Lock()
		defer h.status.mu.Unlock()
		if h.status.cfg.GetError() != nil {
			return errors.New("not read yet")
		}
		return nil
	})
	w.expect(c1, "a")
}

func TestWatch_RailsIsToldAgainWhenItWasAway(t *testing.T) {
	h := newHouse(t)
	h.rails.refuse = errAway
	h.commit(c1, following("a"))
	w := h.watch(t, "good", &agentrpc.WatchRequest{})
	w.expect(c1, "a") // does not wait for RoR
	told := func(n int) {
		testkit.Eventually(t, func() error {
			h.clock.Step(time.Second)
			h.rails.mu.Lock()
			defer h.rails.mu.Unlock()
			if len(h.rails.configs) < n {
				return fmt.Errorf("told %d times", len(h.rails.configs))
			}
			return nil
		})
	}
	told(3)
	h.rails.set(func() { h.rails.refuse = nil })
	h.rails.mu.Lock()
	n := len(h.rails.configs)
	h.rails.mu.Unlock()
	told(n + 1)
}

func TestWatch_ReplicasShareOneFeed(t *testing.T) {
	h := newHouse(t)
	h.commit(c1, following("a"))
	var all []*watch
	for i := range 10 {
		w := h.watch(t, "good", &agentrpc.WatchRequest{AgentMeta: &agentrpc.AgentMeta{InstanceId: int64(i % 5), Version: "v1", PodName: fmt.Sprint("pod-", i)}})
		w.expect(c1, "a")
		all = append(all, w)
	}
	h.files.mu.Lock()
	if h.files.followed != 1 || h.files.reads != 1 {
		t.Errorf("followed %d times, read %d times", h.files.followed, h.files.reads)
	}
	h.files.mu.Unlock()
	connected := h.registry.Connected(nil, nil)
	if len(connected) != 5 {
		t.Errorf("%d instances", len(connected))
	}
	want := &railsrpc.ConnectedAgent{
		AgentId: 7, AgentName: "seven", ProjectId: 3, InstanceId: 0, Version: "v1", PodName: "pod-5", ConnectedAt: timestamppb.New(epoch),
	}
	if diff := cmp.Diff(want, connected[0], protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	for _, w := range all {
		w.hangUp()
	}
	h.away(t)
	testkit.Eventually(t, func() error {
		h.server.mu.Lock()
		feeds := len(h.server.feeds)
		h.server.mu.Unlock()
		if n := len(h.registry.Connected(nil, nil)); n != 0 || feeds != 0 {
			return fmt.Errorf("%d instances, %d feeds are left", n, feeds)
		}
		return nil
	})
}

func TestWatch_RefusesAgentsThatRailsRefuses(t *testing.T) {
	h := newHouse(t)
	if err := h.watch(t, "bad", &agentrpc.WatchRequest{}).end(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	strange := seven()
	strange.AgentName = "../../etc"
	h.rails.set(func() { h.rails.agents["strange"] = strange })
	if err := h.watch(t, "strange", &agentrpc.WatchRequest{}).end(); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	stream, err := h.client.Watch(t.Context(), &agentrpc.WatchRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: got %v", err)
	}
	h.rails.set(func() { h.rails.err = errAway })
	if err := h.watch(t, "new", &agentrpc.WatchRequest{}).end(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestWatch_EndsWhenTheTokenIsRevoked(t *testing.T) {
	h := newHouse(t)
	h.commit(c1, following("a"))
	w := h.watch(t, "good", &agentrpc.WatchRequest{})
	w.expect(c1, "a")
	h.rails.set(func() { delete(h.rails.agents, "good") })
	ended := make(chan error, 1)
	go func() { ended <- w.end() }()
	if err := guardedUntil(t, h.clock, ended); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	h.away(t)
}

func TestRegistry_AnswersWhatIsAsked(t *testing.T) {
	registry, err := NewRegistry(clocktesting.NewFakeClock(epoch), nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	eight := gitlabapi.AgentInfo{AgentID: 8, ProjectID: 9}
	registry.add(eight, &agentrpc.AgentMeta{InstanceId: 2})
	registry.add(eight, &agentrpc.AgentMeta{InstanceId: 1})
	registry.add(seven(), nil)
	three := int64(3)
	for name, row := range map[string]struct {
		ids     []int64
		project *int64
		want    string
	}{
		"all":                         {nil, nil, "7/0 8/1 8/2"},
		"one agent, named twice":      {[]int64{8, 8}, nil, "8/1 8/2"},
		"an agent that is not there":  {[]int64{1}, nil, ""},
		"a project's":                 {nil, &three, "7/0"},
		"an agent of another project": {[]int64{8}, &three, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, c := range registry.Connected(row.ids, row.project) {
				got = append(got, fmt.Sprintf("%d/%d", c.GetAgentId(), c.GetInstanceId()))
			}
			if strings.Join(got, " ") != row.want {
				t.Errorf("got %v, want %s", got, row.want)
			}
		})
	}
}
