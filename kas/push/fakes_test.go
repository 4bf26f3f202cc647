package push_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
)

func sha(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// repository is a Source with one repository in memory.
type repository struct {
	mu        sync.Mutex
	revision  *gitrepo.Revision
	tip       *gitrepo.Revision            // what the next Poke shows; nil: nothing new
	commits   map[string]map[string]string // by commit ID: contents by path
	broken    error                        // what Files and Blobs return
	followers map[int]func(gitrepo.Revision)
	follows   int
	walks     int
	fetched   []string // contents, as Blobs gave them
}

func newRepository() *repository {
	return &repository{commits: map[string]map[string]string{}, followers: map[int]func(gitrepo.Revision){}}
}

func (r *repository) Follow(_ context.Context, _ gitrepo.Repository, _ gitrepo.Ref, _ time.Duration, notify func(gitrepo.Revision)) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.follows++
	follower := r.follows
	r.followers[follower] = notify
	if r.revision != nil {
		notify(*r.revision)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.followers, follower)
	}
}

func (r *repository) set(revision gitrepo.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revision = &revision
	for _, notify := range r.followers {
		notify(revision)
	}
}

// commit moves the branch to a new commit with these files, and returns its ID.
func (r *repository) commit(name string, files map[string]string) string {
	id := r.add(name, files)
	r.set(gitrepo.Revision{Ref: gitrepo.Ref{Branch: "main"}, CommitID: id, DetectedAt: detected})
	return id
}

// add adds a commit that no ref names, and returns its ID.
func (r *repository) add(name string, files map[string]string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commits[sha(name)] = files
	return sha(name)
}

func (r *repository) problem(err error) { r.set(gitrepo.Revision{Problem: err}) }

func (r *repository) breakReading(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = err
}

// Lookup finds the branch at the tip, branches and commits by the names of add.
func (r *repository) Lookup(_ context.Context, _ gitrepo.Repository, ref gitrepo.Ref) (gitrepo.Revision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tip := r.tip
	if tip == nil {
		tip = r.revision
	}
	switch {
	case r.broken != nil:
		return gitrepo.Revision{}, r.broken
	case ref.Branch != "" && ref.Branch != "main":
		if _, ok := r.commits[sha(ref.Branch)]; ok {
			return gitrepo.Revision{Ref: ref, CommitID: sha(ref.Branch), DetectedAt: detected}, nil
		}
		return gitrepo.Revision{}, &gitrepo.RefNotFoundError{Ref: ref}
	case tip == nil:
		return gitrepo.Revision{}, gitrepo.ErrEmpty
	default:
		return *tip, tip.Problem
	}
}

// Poke shows followers the tip.
func (r *repository) Poke(match func(gitlabapi.GitalyRepository) bool, _ string) {
	r.mu.Lock()
	tip := r.tip
	r.tip = nil
	r.mu.Unlock()
	if tip != nil && match(gitlabapi.GitalyRepository{StorageName: "default", RelativePath: "@hashed/a.git"}) {
		r.set(*tip)
	}
}

// commitUnseen moves the branch to a new commit that followers see when they are poked.
func (r *repository) commitUnseen(name string, files map[string]string) string {
	id := r.add(name, files)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tip = &gitrepo.Revision{Ref: gitrepo.Ref{Branch: "main"}, CommitID: id, DetectedAt: detected}
	return id
}

func (r *repository) Files(_ context.Context, _ gitrepo.Repository, commitID string) ([]gitrepo.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return nil, r.broken
	}
	r.walks++
	var files []gitrepo.File
	for path, content := range r.commits[commitID] {
		files = append(files, gitrepo.File{Path: path, OID: sha(content)})
	}
	return files, nil
}

func (r *repository) Blobs(_ context.Context, _ gitrepo.Repository, oids []string, maxSize int64, yield func(string, []byte, int64) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	contents := map[string]string{}
	for _, files := range r.commits {
		for _, content := range files {
			contents[sha(content)] = content
		}
	}
	for _, oid := range oids {
		content := contents[oid]
		r.fetched = append(r.fetched, content)
		data := []byte(content)
		if int64(len(data)) > maxSize {
			data = nil
		}
		if err := yield(oid, data, int64(len(content))); err != nil {
			return err
		}
	}
	return nil
}

func (r *repository) counts() (follows, walks, fetched int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.follows, r.walks, len(r.fetched)
}

// ror is an Access that knows agents by tokens "agent-<id>", and one project.
type ror struct {
	mu      sync.Mutex
	refusal error
	path    string // relative path of the project's repository
	asked   int
	bell    chan struct{}
}

const projectPath = "group/manifests"

func (r *ror) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusal = err
}

// Rechecked never has reason to ask again but where ring is called.
func (r *ror) Rechecked(int64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bell
}

func (r *ror) ring() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.bell)
	r.bell = make(chan struct{}) // who has not heard this ring asks when it does
}

func (r *ror) Agent(_ context.Context, token string) (gitlabapi.AgentInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	var id int64
	if _, err := fmt.Sscanf(token, "agent-%d", &id); err != nil {
		return gitlabapi.AgentInfo{}, status.Error(codes.Unauthenticated, "unknown token")
	}
	return gitlabapi.AgentInfo{AgentID: id, AgentName: token}, nil
}

func (r *ror) Project(_ context.Context, _, id string) (gitlabapi.ProjectInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refusal != nil {
		return gitlabapi.ProjectInfo{}, fmt.Errorf("project: %w", r.refusal)
	}
	if id != projectPath {
		return gitlabapi.ProjectInfo{}, status.Error(codes.NotFound, "404 Project Not Found")
	}
	return gitlabapi.ProjectInfo{
		ProjectID:  7,
		GitalyInfo: gitlabapi.GitalyInfo{Address: "unix:/gitaly"},
		GitalyRepository: gitlabapi.GitalyRepository{
			StorageName: "default", RelativePath: r.path, GlProjectPath: projectPath,
		},
	}, nil
}

// board is a Status that remembers.
type board struct {
	mu        sync.Mutex
	connected map[int64]int
	sources   map[int64][]*syncstatus.ProjectStatus
	reports   map[int64][]*agentrpc.Report
	late      int // reports that came for no open stream
}

func newBoard() *board {
	return &board{connected: map[int64]int{}, sources: map[int64][]*syncstatus.ProjectStatus{}, reports: map[int64][]*agentrpc.Report{}}
}

func (b *board) Connected(agent gitlabapi.AgentInfo, _ string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.connected[agent.AgentID]++
}

func (b *board) Disconnected(agent gitlabapi.AgentInfo, _ string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.connected[agent.AgentID]--
}

func (b *board) Source(agent gitlabapi.AgentInfo, _ string, update *syncstatus.ProjectStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sources[agent.AgentID] = append(b.sources[agent.AgentID], update)
}

func (b *board) Report(agent gitlabapi.AgentInfo, _ string, report *agentrpc.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.connected[agent.AgentID] == 0 {
		b.late++
	}
	b.reports[agent.AgentID] = append(b.reports[agent.AgentID], report)
}

// source returns what was said last of Git to an agent.
func (b *board) source(agent int64) *syncstatus.ProjectStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sources[agent]) == 0 {
		return nil
	}
	return proto.CloneOf(b.sources[agent][len(b.sources[agent])-1])
}

func (b *board) reported(agent int64) []*agentrpc.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.reports[agent])
}

func (b *board) streams(agent int64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.connected[agent]
}
