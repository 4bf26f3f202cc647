package rails

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// told is what RoR has told.
type told struct {
	match       func(gitlabapi.GitalyRepository) bool
	traceparent string
	recheck     []int64
}

func (t *told) Poke(match func(gitlabapi.GitalyRepository) bool, traceparent string) {
	t.match, t.traceparent = match, traceparent
}
func (t *told) Recheck(agentID int64) { t.recheck = append(t.recheck, agentID) }

func TestGitPushEvent_PokesTheProjectByNumberOrPath(t *testing.T) {
	for name, row := range map[string]struct {
		project    *railsrpc.Project
		repository gitlabapi.GitalyRepository
		want       bool
	}{
		"its number":                 {&railsrpc.Project{Id: 7, FullPath: "new/path"}, gitlabapi.GitalyRepository{GlRepository: "project-7", GlProjectPath: "old/path"}, true},
		"its path":                   {&railsrpc.Project{FullPath: "a/b"}, gitlabapi.GitalyRepository{GlProjectPath: "a/b"}, true},
		"another one":                {&railsrpc.Project{Id: 7, FullPath: "a/b"}, gitlabapi.GitalyRepository{GlRepository: "project-77", GlProjectPath: "a/bc"}, false},
		"a repository without names": {&railsrpc.Project{Id: 7}, gitlabapi.GitalyRepository{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			heard := &told{}
			n := NewNotifications(heard, heard, nil)
			if _, err := n.GitPushEvent(t.Context(), &railsrpc.GitPushEventRequest{Project: row.project}); err != nil {
				t.Fatal(err)
			}
			if heard.match(row.repository) != row.want {
				t.Errorf("want %v", row.want)
			}
		})
	}
}

func TestNotifications_SayWhatIsMissing(t *testing.T) {
	heard := &told{}
	n := NewNotifications(heard, heard, nil)
	if _, err := n.GitPushEvent(t.Context(), &railsrpc.GitPushEventRequest{}); status.Code(err) != codes.InvalidArgument || heard.match != nil {
		t.Errorf("got %v", err)
	}
	if _, err := n.AgentTokenRevoked(t.Context(), &railsrpc.AgentTokenRevokedRequest{}); status.Code(err) != codes.InvalidArgument || heard.recheck != nil {
		t.Errorf("got %v", err)
	}
	if _, err := n.AgentTokenRevoked(t.Context(), &railsrpc.AgentTokenRevokedRequest{AgentId: 3}); err != nil || len(heard.recheck) != 1 || heard.recheck[0] != 3 {
		t.Errorf("got %v, %v", err, heard.recheck)
	}
}
