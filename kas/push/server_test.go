package push_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/push"
)

func protoSize(m proto.Message) int { return proto.Size(m) }

// eventually waits until the Status last heard what check wants.
func (h *harness) eventually(agent int64, check func(*syncstatus.ProjectStatus) bool) {
	h.t.Helper()
	testkit.Eventually(h.t, func() error {
		if last := h.board.source(agent); last == nil || !check(last) {
			return fmt.Errorf("the status last heard %v", last)
		}
		return nil
	})
}

func TestConnect_SendsTheWholeSetToAnAgentThatHoldsNothing(t *testing.T) {
	h := start(t)
	commit := h.repo.commit("one", map[string]string{"b.yaml": configMap("b", "1"), "a.yaml": "# a\n" + configMap("a", "1"), "README.md": "x", ".ci/x.yaml": "x"})
	a := h.connect(1)
	got := a.receive()
	assert.Equal(t, agentrpc.Mode_MODE_FULL, got.header.GetMode())
	assert.Equal(t, commit, got.header.GetCommitId())
	assert.Equal(t, "branch main", got.header.GetRef())
	assert.Empty(t, got.header.GetBaseCommitId())
	assert.EqualValues(t, 7, got.header.GetProjectId())
	assert.Equal(t, projectPath, got.header.GetProjectPath())
	assert.Equal(t, detected, got.header.GetDetectedAt().AsTime())
	assert.Equal(t, []string{"a.yaml:2", "b.yaml:1"}, got.refs)
	assert.Len(t, got.fresh, 2)
	assert.True(t, got.trailer.GetComplete())

	h.eventually(1, func(s *syncstatus.ProjectStatus) bool { return s.GetTimes().GetSentAt() != nil })
	last := h.board.source(1)
	want := &syncstatus.ProjectStatus{ProjectPath: projectPath, Ref: "branch main", WantedCommit: commit, Times: last.GetTimes()}
	assert.True(t, proto.Equal(want, last), last)
	assert.Equal(t, detected, last.GetTimes().GetDetectedAt().AsTime())
	assert.Equal(t, started, last.GetTimes().GetSentAt().AsTime())
}

func TestConnect_SendsOnlyWhatChanged(t *testing.T) {
	h := start(t)
	files := map[string]string{}
	for i := range 50 {
		files[fmt.Sprintf("%02d.yaml", i)] = configMap(fmt.Sprint("cm-", i), "1")
	}
	first := h.repo.commit("one", files)
	a := h.connect(1)
	require.Len(t, a.receive().fresh, 50)

	files = maps.Clone(files)
	files["07.yaml"] = configMap("cm-7", "2")
	files["moved.yaml"] = files["08.yaml"]
	delete(files, "08.yaml")
	delete(files, "09.yaml")
	second := h.repo.commit("two", files)
	got := a.receive()
	assert.Equal(t, agentrpc.Mode_MODE_DELTA, got.header.GetMode())
	assert.Equal(t, second, got.header.GetCommitId())
	assert.Equal(t, first, got.header.GetBaseCommitId())
	require.Len(t, got.fresh, 1)
	assert.Contains(t, got.fresh[0], "cm-7")
	assert.Len(t, got.refs, 49)
	assert.Contains(t, got.refs, "moved.yaml:1")

	_, _, fetched := h.repo.counts()
	assert.Equal(t, 52, fetched, "50 files, then the changed one and the one at another path")
	require.NoError(t, testutil.GatherAndCompare(h.metrics, strings.NewReader(`
# HELP kas_push_files_parsed_total Files parsed: those whose content was not known from the commit before.
# TYPE kas_push_files_parsed_total counter
kas_push_files_parsed_total 52
# HELP kas_push_objects_sent_total Objects sent.
# TYPE kas_push_objects_sent_total counter
kas_push_objects_sent_total 51
`), "kas_push_files_parsed_total", "kas_push_objects_sent_total"))
}

func TestConnect_SendsAgainWhatLeftAndCameBack(t *testing.T) {
	h := start(t)
	both := map[string]string{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")}
	h.repo.commit("one", both)
	a := h.connect(1)
	require.Len(t, a.receive().fresh, 2)
	h.repo.commit("two", map[string]string{"a.yaml": both["a.yaml"]})
	require.Empty(t, a.receive().fresh)
	h.repo.commit("three", both)
	require.Len(t, a.receive().fresh, 1, "the agent holds only what the last whole set lists")
}

func TestConnect_AgentsOnOneSourceShareOneSet(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	var agents []*agent
	for i := range 20 {
		agents = append(agents, h.connect(i+1))
	}
	for _, a := range agents {
		require.Len(t, a.receive().fresh, 1)
	}
	h.repo.commit("two", map[string]string{"a.yaml": configMap("a", "2")})
	for _, a := range agents {
		require.Len(t, a.receive().fresh, 1)
	}
	follows, walks, fetched := h.repo.counts()
	assert.Equal(t, []int{1, 2, 2}, []int{follows, walks, fetched})
	assert.InDelta(t, 1, metric(t, h, "kas_push_feeds"), 0)
	assert.InDelta(t, 20, metric(t, h, "kas_push_streams"), 0)
}

func TestConnect_AgentsThatAskForOtherFilesDoNotShare(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a/x.yaml": configMap("a", "1"), "b/x.yaml": configMap("b", "1")})
	for i, glob := range []string{"/a/**/*.yaml", "b/*"} {
		a := h.dial(fmt.Sprint("agent-", i+1))
		a.hello(&agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: projectPath, Paths: []*agentcfg.PathCfg{{Glob: glob}}}})
		assert.Equal(t, []string{[]string{"a/x.yaml:1", "b/x.yaml:1"}[i]}, a.receive().refs)
	}
}

func metric(t *testing.T, h *harness, name string) float64 {
	t.Helper()
	families, err := h.metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0] // is one of these
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestConnect_ReconnectedAgentIsSentNothingThatItHolds(t *testing.T) {
	h := start(t)
	commit := h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	before := h.connect(1)
	got := before.receive()
	require.NoError(t, before.stream.CloseSend())
	require.Error(t, before.ending())

	again := h.dial("agent-1")
	again.held = before.held
	again.hello(&agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: projectPath}, CommitId: commit, Digests: got.digests})
	set := again.receive()
	assert.Equal(t, agentrpc.Mode_MODE_DELTA, set.header.GetMode())
	assert.Equal(t, commit, set.header.GetBaseCommitId())
	assert.Empty(t, set.fresh)
	assert.Equal(t, got.refs, set.refs)

	h.repo.commit("two", map[string]string{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "2")})
	assert.Len(t, again.receive().fresh, 1)
}

func TestConnect_NewestWinsWhileAnAgentDoesNotRead(t *testing.T) {
	h := start(t)
	large := strings.Repeat("x", 512<<10) // more than the network buffers
	commit := func(name string) string {
		return h.repo.commit(name, map[string]string{"a.yaml": configMap("a", name), "large.yaml": configMap("large", large)})
	}
	first := commit("one")
	blocked, quick := h.connect(1), h.connect(2)
	quick.receive()
	testkit.Eventually(t, func() error {
		if h.board.source(1) == nil {
			return errors.New("not being sent yet")
		}
		return nil
	})
	var last string
	for _, name := range []string{"two", "three", "four"} {
		last = commit(name)
		assert.Equal(t, last, quick.receive().header.GetCommitId(), "a blocked agent holds up nobody")
	}
	assert.Equal(t, first, blocked.receive().header.GetCommitId(), "what was begun is finished")
	got := blocked.receive()
	assert.Equal(t, last, got.header.GetCommitId(), "what lies between is skipped")
	assert.Equal(t, first, got.header.GetBaseCommitId())
	assert.Len(t, got.fresh, 1)
}

func TestConnect_CutsLargeSetsIntoMessages(t *testing.T) {
	h := start(t)
	files := map[string]string{}
	for i := range 12 {
		files[fmt.Sprintf("%s/%02d.yaml", strings.Repeat("d", 200), i)] = configMap(fmt.Sprint("cm-", i), strings.Repeat("x", 100<<10))
	}
	files["large.yaml"] = configMap("large", strings.Repeat("x", 1<<20))
	h.repo.commit("one", files)
	got := h.connect(1).receive()
	assert.Len(t, got.fresh, 13)
	assert.Less(t, got.largest, 1<<20+1000, "only one object that is larger by itself may be")
	files = maps.Clone(files)
	delete(files, "large.yaml")
	h = start(t)
	h.repo.commit("two", files)
	assert.Less(t, h.connect(2).receive().largest, 1<<20)
}

func TestConnect_MistakesInFiles(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"good.yaml": configMap("a", "1"), "bad.yaml": "foo: [", "x.yaml": configMap("a", "2")})
	a := h.connect(1)
	got := a.receive()
	assert.Equal(t, []string{"good.yaml:1"}, got.refs)
	assert.False(t, got.trailer.GetComplete())
	require.Len(t, got.trailer.GetErrors(), 2)
	assert.Equal(t, "bad.yaml", got.trailer.GetErrors()[0].GetPath())
	assert.EqualValues(t, 1, got.trailer.GetErrors()[1].GetLine())
	h.eventually(1, func(s *syncstatus.ProjectStatus) bool {
		return len(s.GetErrors()) == 2 && s.GetTimes().GetSentAt() != nil
	})

	h.repo.commit("two", map[string]string{"good.yaml": configMap("a", "1")})
	assert.True(t, a.receive().trailer.GetComplete())
	h.eventually(1, func(s *syncstatus.ProjectStatus) bool {
		return len(s.GetErrors()) == 0 && s.GetTimes().GetSentAt() != nil
	})
}

func TestConnect_NothingSelected(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"README.md": "x"})
	a := h.connect(1)
	got := a.receive()
	assert.Empty(t, got.refs)
	assert.True(t, got.trailer.GetComplete())
	h.eventually(1, func(s *syncstatus.ProjectStatus) bool {
		return s.GetMessage() == "no file of the commit matches the globs **/*.{yaml,yml,json}: correct paths in the agent's configuration, or push manifests"
	})
	h.repo.commit("two", map[string]string{"a.yaml": "# nothing yet"})
	a.receive()
	h.eventually(1, func(s *syncstatus.ProjectStatus) bool {
		return s.GetMessage() == "the files that the globs select hold no object: push manifests"
	})
}

func TestConnect_Limits(t *testing.T) {
	tests := map[string]struct {
		files   map[string]string
		change  func(*push.Config)
		want    string
		fetched int
	}{
		"a file too large": {
			files:   map[string]string{"a.yaml": configMap("a", ""), "b.yaml": configMap("b", strings.Repeat("x", 500))},
			change:  func(c *push.Config) { c.Limits.MaxFileSize = 500 },
			want:    "the file has 567 bytes, more than the limit of 500: split it, or leave it out by the globs",
			fetched: 2,
		},
		"all files together too large: the rest is not even read": {
			files:   numbered(1500),
			change:  func(c *push.Config) { c.Limits.MaxTotalSize = 5000 },
			want:    "the selected files have more bytes together than the limit of 5000: this one and what follows it is left out",
			fetched: 1000,
		},
		"too many files: the rest is not even read": {
			files:   numbered(1500),
			change:  func(c *push.Config) { c.Limits.MaxFiles = 500 },
			want:    "the globs select 1500 files, more than the limit of 500: this one and what follows it is left out",
			fetched: 1000,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := start(t, tt.change)
			h.repo.commit("one", tt.files)
			got := h.connect(1).receive()
			require.Len(t, got.trailer.GetErrors(), 1)
			assert.Equal(t, tt.want, got.trailer.GetErrors()[0].GetMessage())
			assert.False(t, got.trailer.GetComplete())
			_, _, fetched := h.repo.counts()
			assert.Equal(t, tt.fetched, fetched)
		})
	}
}

func numbered(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		files[fmt.Sprintf("%04d.yaml", i)] = configMap(fmt.Sprint("cm-", i), "")
	}
	return files
}

func TestConnect_ProblemsAreShownAndTheStreamStays(t *testing.T) {
	tests := map[string]struct {
		problem error
		want    string
	}{
		"an empty repository":     {gitrepo.ErrEmpty, gitrepo.ErrEmpty.Error()},
		"a branch that is not":    {&gitrepo.RefNotFoundError{Ref: gitrepo.Ref{Branch: "x"}}, "the repository has no branch x: create it, or correct ref in the agent's configuration"},
		"a repository that is no": {gitrepo.ErrRepositoryNotFound, "the repository cannot be read: " + gitrepo.ErrRepositoryNotFound.Error()},
		"Gitaly away":             {&gitrepo.UnavailableError{Doing: "look up the ref", Err: errors.New("connection refused")}, "the repository cannot be read: Gitaly: look up the ref: connection refused (trying again)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			h.repo.problem(tt.problem)
			a := h.connect(1)
			failed := func(s *syncstatus.ProjectStatus) bool {
				return s.GetState() == syncstatus.State_STATE_FAILED && s.GetMessage() == tt.want
			}
			h.eventually(1, failed)
			commit := h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
			assert.Equal(t, commit, a.receive().header.GetCommitId())
			h.eventually(1, func(s *syncstatus.ProjectStatus) bool {
				return s.GetState() == 0 && s.GetMessage() == "" && s.GetTimes().GetSentAt() != nil
			})

			h.repo.problem(tt.problem)
			h.eventually(1, failed)
			wanted := ""
			if gitrepo.IsPassing(tt.problem) {
				wanted = commit // as it was seen last
			}
			assert.Equal(t, wanted, h.board.source(1).GetWantedCommit())
			h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
			h.eventually(1, func(s *syncstatus.ProjectStatus) bool {
				return s.GetState() == 0 && s.GetWantedCommit() == commit && s.GetTimes().GetSentAt() != nil
			})
			h.repo.commit("two", map[string]string{"a.yaml": configMap("a", "2")})
			assert.Equal(t, sha("two"), a.receive().header.GetCommitId(), "the same commit again was not sent")
		})
	}
}

func TestConnect_ReadingIsTriedAgain(t *testing.T) {
	h := start(t)
	h.repo.breakReading(&gitrepo.UnavailableError{Doing: "list the files", Err: errors.New("overloaded")})
	commit := h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	h.eventually(1, func(s *syncstatus.ProjectStatus) bool {
		return s.GetState() == syncstatus.State_STATE_FAILED && s.GetWantedCommit() == commit && strings.Contains(s.GetMessage(), "overloaded")
	})
	h.repo.breakReading(nil)
	got := make(chan set, 1)
	go func() { got <- a.receive() }()
	testkit.Eventually(t, func() error {
		h.clock.Step(time.Second)
		select {
		case s := <-got:
			got <- s
			return nil
		default:
			return errors.New("nothing came")
		}
	})
	assert.Equal(t, commit, (<-got).header.GetCommitId())
}

func TestConnect_RefusesABadHello(t *testing.T) {
	project := func(change func(*agentcfg.ManifestProject)) *agentrpc.ConnectRequest {
		p := &agentcfg.ManifestProject{Id: projectPath}
		change(p)
		return &agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{Hello: &agentrpc.Hello{Project: p}}}
	}
	holds := func(commit string, digests ...[]byte) *agentrpc.ConnectRequest {
		return &agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{Hello: &agentrpc.Hello{
			Project: &agentcfg.ManifestProject{Id: projectPath}, CommitId: commit, Digests: digests,
		}}}
	}
	tests := map[string]struct {
		request *agentrpc.ConnectRequest
		want    string
	}{
		"nothing":             {&agentrpc.ConnectRequest{}, "the first message of a stream must be Hello"},
		"a report":            {&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Report{Report: &agentrpc.Report{}}}, "the first message of a stream must be Hello"},
		"no project":          {&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{Hello: &agentrpc.Hello{}}}, "Hello: project.id must have 1 to 1024 characters"},
		"a bad namespace":     {project(func(p *agentcfg.ManifestProject) { p.DefaultNamespace = "A" }), `Hello: project.default_namespace "A": a lowercase RFC 1123 label`},
		"a bad glob":          {project(func(p *agentcfg.ManifestProject) { p.Paths = []*agentcfg.PathCfg{{Glob: "["}} }), `Hello: project.paths: glob "[" is not a valid pattern`},
		"too many globs":      {project(func(p *agentcfg.ManifestProject) { p.Paths = make([]*agentcfg.PathCfg, 1001) }), "Hello: project.paths has 1001 globs"},
		"a ref of no kind":    {project(func(p *agentcfg.ManifestProject) { p.Ref = &agentcfg.GitRef{} }), "Hello: project.ref: names neither branch, tag nor commit"},
		"a branch of no name": {project(func(p *agentcfg.ManifestProject) { p.Ref = &agentcfg.GitRef{Ref: &agentcfg.GitRef_Branch{}} }), "Hello: project.ref: must have 1 to 1024 characters"},
		"a short commit": {project(func(p *agentcfg.ManifestProject) {
			p.Ref = &agentcfg.GitRef{Ref: &agentcfg.GitRef_Commit{Commit: "abc"}}
		}), `Hello: project.ref: commit "abc" is not a full commit ID`},
		"a commit ID that none": {holds("--all"), `Hello: commit_id "--all" is not a commit ID`},
		"digests of no commit":  {holds("", make([]byte, 32)), "Hello: digests without the commit_id"},
		"a digest too short":    {holds(sha("x"), make([]byte, 32), make([]byte, 31)), "Hello: digest 1 has 31 bytes, not 32"},
		"too many digests":      {holds(sha("x"), make([]byte, 32), make([]byte, 32), make([]byte, 32)), "Hello: 3 digests, more than the limit of 2 objects"},
	}
	h := start(t, func(c *push.Config) { c.Limits.MaxObjects = 2 })
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := h.dial("agent-1")
			require.NoError(t, a.stream.Send(tt.request))
			err := a.ending()
			assert.Equal(t, codes.InvalidArgument, status.Code(err), err)
			assert.Contains(t, status.Convert(err).Message(), tt.want)
		})
	}
	assert.Zero(t, h.board.streams(1))
}

func TestConnect_Access(t *testing.T) {
	h := start(t)
	hello := &agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: projectPath}}
	t.Run("no token", func(t *testing.T) {
		assert.Equal(t, codes.Unauthenticated, status.Code(h.dial("").ending()))
	})
	t.Run("an unknown token", func(t *testing.T) {
		assert.Equal(t, codes.Unauthenticated, status.Code(h.dial("x").ending()))
	})
	t.Run("a project that is none, or private", func(t *testing.T) {
		a := h.dial("agent-1")
		a.hello(&agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: "group/secret"}})
		err := a.ending()
		assert.Equal(t, codes.NotFound, status.Code(err))
		assert.Contains(t, err.Error(), `project "group/secret" does not exist, or the agent may not read it`)
		assert.Equal(t, syncstatus.State_STATE_FAILED, h.board.source(1).GetState())
		assert.Equal(t, status.Convert(err).Message(), h.board.source(1).GetMessage())
	})
	t.Run("RoR away", func(t *testing.T) {
		h.ror.refuse(errors.New("connection refused"))
		defer h.ror.refuse(nil)
		a := h.dial("agent-2")
		a.hello(hello)
		assert.Equal(t, codes.Unavailable, status.Code(a.ending()))
		assert.Nil(t, h.board.source(2), "the status stays as it was")
	})
}

func TestConnect_RechecksAccess(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	recheck := func() {
		h.ror.mu.Lock()
		before := h.ror.asked
		h.ror.mu.Unlock()
		testkit.Eventually(t, func() error {
			h.clock.Step(5 * time.Minute)
			h.ror.mu.Lock()
			defer h.ror.mu.Unlock()
			if h.ror.asked <= before {
				return errors.New("not rechecked")
			}
			return nil
		})
	}
	recheck() // all is well
	h.ror.refuse(errors.New("connection refused"))
	recheck() // RoR is away: the stream stays
	h.repo.commit("two", map[string]string{"a.yaml": configMap("a", "2")})
	assert.Equal(t, sha("two"), a.receive().header.GetCommitId())

	h.ror.refuse(nil)
	h.ror.mu.Lock()
	h.ror.path = "@hashed/b.git" // the repository moved
	h.ror.mu.Unlock()
	recheck()
	set := a.receive()
	assert.Equal(t, sha("two"), set.header.GetCommitId())
	assert.Empty(t, set.fresh)

	h.ror.refuse(status.Error(codes.NotFound, "404 Project Not Found"))
	recheck()
	assert.Equal(t, codes.NotFound, status.Code(a.ending()))
	testkit.Eventually(t, func() error {
		if n := h.board.streams(1); n != 0 {
			return fmt.Errorf("%d streams", n)
		}
		return nil
	})
}

func TestConnect_RechecksAccessAtOnceWhenThereIsReason(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a, b := h.connect(1), h.connect(2)
	a.receive()
	b.receive()
	h.ror.ring() // and all is well
	h.repo.commit("two", map[string]string{"a.yaml": configMap("a", "2")})
	assert.Equal(t, sha("two"), a.receive().header.GetCommitId())
	h.ror.refuse(status.Error(codes.Unauthenticated, "revoked"))
	h.ror.ring()
	assert.Equal(t, codes.Unauthenticated, status.Code(a.ending()))
}

func TestConnect_ANameThatIsNotUTF8IsAMistakeAndNothingElseSuffers(t *testing.T) {
	h := start(t, func(c *push.Config) { c.Limits.MaxFiles = 2 })
	h.repo.set(gitrepo.Revision{Ref: gitrepo.Ref{Branch: "caf\xe9"}, CommitID: h.repo.add("one", map[string]string{
		"a.yaml": configMap("a", "1"), "caf\xe9.yaml": configMap("b", "1"), "caf\xe9\xe9.yaml": configMap("c", "1"),
	})})
	set := h.connect(1).receive()
	assert.Equal(t, []string{"a.yaml:1"}, set.refs)
	assert.Equal(t, "branch caf\uFFFD", set.header.GetRef())
	require.Len(t, set.trailer.GetErrors(), 2)
	assert.Equal(t, "caf\uFFFD.yaml", set.trailer.GetErrors()[0].GetPath())
	assert.Contains(t, set.trailer.GetErrors()[0].GetMessage(), "the file's name is not UTF-8")
	assert.False(t, set.trailer.GetComplete())
}

func TestConnect_SaysWhyInWords(t *testing.T) {
	h := start(t)
	for name, row := range map[string]struct {
		why  error
		want string
	}{
		"a refusal":           {status.Error(codes.PermissionDenied, "not allowed"), "project: not allowed"},
		"trouble of a server": {status.Error(codes.Unavailable, "try later"), "ask who the agent is and what it may read: project: try later"},
	} {
		t.Run(name, func(t *testing.T) {
			h.ror.refuse(row.why)
			assert.Equal(t, row.want, status.Convert(h.connect(1).ending()).Message())
		})
	}
}

func TestConnect_AnAgentThatDidNotReadIsCheckedBeforeItGetsMore(t *testing.T) {
	h := start(t)
	files := map[string]string{}
	for i := range 40 {
		files[fmt.Sprintf("%d.yaml", i)] = configMap(fmt.Sprint("one-", i), strings.Repeat("x", 20_000))
	}
	h.repo.commit("one", files)
	a := h.connect(1)
	h.eventually(1, func(s *syncstatus.ProjectStatus) bool { return s.GetWantedCommit() == sha("one") })
	h.repo.commit("two", map[string]string{"a.yaml": configMap("two", "1")})
	testkit.Eventually(t, func() error {
		if n := metric(t, h, "kas_push_set_build_seconds"); n != 2 {
			return fmt.Errorf("%v sets built", n)
		}
		return nil
	})
	h.ror.refuse(status.Error(codes.NotFound, "404 Project Not Found"))
	h.clock.Step(time.Hour)
	assert.Equal(t, sha("one"), a.receive().header.GetCommitId(), "what was begun is finished")
	_, err := a.stream.Recv()
	assert.Equal(t, codes.NotFound, status.Code(err), "got a set that it may not read any more")
}

func TestConnect_TellsTheLogEachSetsStoryOnce(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	testkit.Eventually(t, func() error {
		if h.log.FilterMessage("Object set sent").Len() != 1 {
			return errors.New("kas is still at it")
		}
		return nil
	})
	for _, r := range []*agentrpc.Report{
		{CommitId: sha("one"), State: syncstatus.State_STATE_SYNCING},
		{CommitId: sha("one"), State: syncstatus.State_STATE_SYNCED, More: true},
		{CommitId: sha("one"), State: syncstatus.State_STATE_SYNCED, AppliedCommitId: sha("one")},
		{CommitId: sha("one"), State: syncstatus.State_STATE_PROGRESSING},
		{CommitId: sha("one"), State: syncstatus.State_STATE_SYNCED},
		{CommitId: sha("none"), State: syncstatus.State_STATE_FAILED},
		{CommitId: sha("one"), State: syncstatus.State_STATE_PARTIAL},
	} {
		a.report(r)
	}
	testkit.Eventually(t, func() error {
		if n := len(h.board.reported(1)); n != 7 {
			return fmt.Errorf("%d reports", n)
		}
		return nil
	})
	var told []string
	for _, line := range h.log.All() {
		fields := line.ContextMap()
		told = append(told, strings.TrimSpace(fmt.Sprint(line.Message, " ", fields["commit"] == sha("one"), " ", fields["state"])))
	}
	assert.Equal(t, []string{
		"New commit, object set built true <nil>",
		"Object set sent true <nil>",
		"Agent says how the commit fares true STATE_SYNCED",
		"Agent says how the commit fares true STATE_PARTIAL",
	}, told)
}

func TestConnect_HandsOnReports(t *testing.T) {
	h := start(t)
	a := h.connect(1)
	a.report(&agentrpc.Report{
		Reset_: true, CommitId: sha("one"), State: syncstatus.State_STATE_SYNCING, Message: strings.Repeat("x", 10_000),
		Objects: []*syncstatus.ObjectStatus{{Id: &syncstatus.ObjectID{Kind: "ConfigMap", Name: "a"}, Action: 99, Health: 99}},
	})
	a.report(&agentrpc.Report{State: 99})
	testkit.Eventually(t, func() error {
		if n := len(h.board.reported(1)); n != 2 {
			return fmt.Errorf("%d reports", n)
		}
		return nil
	})
	got := h.board.reported(1)
	assert.Equal(t, syncstatus.State_STATE_SYNCING, got[0].GetState())
	assert.Less(t, len(got[0].GetMessage()), 5000)
	assert.Zero(t, got[0].GetObjects()[0].GetAction())
	assert.Zero(t, got[0].GetObjects()[0].GetHealth())
	assert.Zero(t, got[1].GetState())
	assert.Equal(t, 1, h.board.streams(1))

	a.report(&agentrpc.Report{Objects: []*syncstatus.ObjectStatus{{}}})
	assert.Equal(t, codes.InvalidArgument, status.Code(a.ending()))
	h.board.mu.Lock()
	defer h.board.mu.Unlock()
	assert.Zero(t, h.board.late)
}

func TestConnect_RefusesBadReports(t *testing.T) {
	h := start(t)
	for name, request := range map[string]*agentrpc.ConnectRequest{
		"a second Hello":          {Message: &agentrpc.ConnectRequest_Hello{Hello: &agentrpc.Hello{}}},
		"a bad held prune":        {Message: &agentrpc.ConnectRequest_Report{Report: &agentrpc.Report{HeldPrune: &syncstatus.HeldPrune{CommitId: "x"}}}},
		"a bad commit":            {Message: &agentrpc.ConnectRequest_Report{Report: &agentrpc.Report{CommitId: "x"}}},
		"an object without an ID": {Message: &agentrpc.ConnectRequest_Report{Report: &agentrpc.Report{Removed: []*syncstatus.ObjectID{nil}}}},
	} {
		t.Run(name, func(t *testing.T) {
			a := h.connect(1)
			require.NoError(t, a.stream.Send(request))
			assert.Equal(t, codes.InvalidArgument, status.Code(a.ending()))
		})
	}
}

func TestRun_EndsStreamsWhenKasStops(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a, silent := h.connect(1), h.dial("agent-2")
	a.receive()
	testkit.Eventually(t, func() error {
		if metric(t, h, "kas_push_streams") != 2 {
			return errors.New("not both are open")
		}
		return nil
	})
	h.stop()
	for _, a := range []*agent{a, silent} {
		err := a.ending()
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.Equal(t, "kas is shutting down", status.Convert(err).Message())
	}
	assert.Equal(t, codes.Unavailable, status.Code(h.connect(3).ending()), "no new ones either")
}
