package rest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
)

const (
	syncStatus = "/projects/root%2Fapp/cluster_agents/1/sync_status"
	commit     = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// newAgent has agent 1 of root/app follow some projects.
func newAgent(t *testing.T, follows ...string) *house {
	t.Helper()
	h := newHouse(t)
	h.must("root", "POST", "/projects", `{"name":"app"}`)
	h.must("root", "POST", "/projects/1/cluster_agents", `{"name":"dev"}`)
	for i, p := range follows {
		h.status(&syncstatus.ProjectStatus{ProjectId: p, ProjectPath: fmt.Sprintf("root/path%d", i)})
	}
	return h
}

func (h *house) status(s *syncstatus.ProjectStatus) {
	h.t.Helper()
	require.NoError(h.t, h.reg.ApplyUpdate(h.t.Context(), &syncstatus.Update{AgentId: 1, Update: &syncstatus.Update_Status{Status: s}}))
}

// form sends a form as root.
func (h *house) form(path, form string) (int, string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.url+path, strings.NewReader(form))
	require.NoError(h.t, err)
	r.Header.Set("PRIVATE-TOKEN", h.tokens["root"])
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	return h.send(r)
}

func TestCommands_GoToKas(t *testing.T) {
	h := newAgent(t, "7", "root/b")
	for _, row := range []struct {
		name, verb, body string
		code             int
		want             proto.Message
	}{
		{"sync is taken and goes on", "sync", `{"manifest_project":"root/b"}`, 202, &railsrpc.SyncRequest{AgentId: 1, ProjectId: "root/b", By: "root"}},
		{"a project goes by its full path, too", "suspend", `{"manifest_project":"root/path0"}`, 204, &railsrpc.SuspendRequest{AgentId: 1, ProjectId: "7", By: "root"}},
		{"kas may know a project of which nothing is known here", "resume", `{"manifest_project":"root/c"}`, 204, &railsrpc.ResumeRequest{AgentId: 1, ProjectId: "root/c", By: "root"}},
		{
			"an approval names its commit", "approve_prune", `{"manifest_project":"7","commit_id":"` + commit + `"}`, 204,
			&railsrpc.ApprovePruneRequest{AgentId: 1, ProjectId: "7", By: "root", CommitId: commit},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := h.in(t)
			h.beside.Commands = nil
			code, answer := h.do("root", "POST", syncStatus+"/"+row.verb, row.body)
			require.Equal(t, row.code, code, answer)
			require.Len(t, h.beside.Commands, 1)
			require.True(t, proto.Equal(row.want, h.beside.Commands[0]), h.beside.Commands[0])
		})
	}
	code, answer := h.form(syncStatus+"/approve_prune", "manifest_project=7&commit_id="+commit)
	require.Equal(t, http.StatusNoContent, code, answer)
	require.Equal(t, commit, h.beside.Commands[len(h.beside.Commands)-1].(*railsrpc.ApprovePruneRequest).GetCommitId())
}

func TestCommands_TheOnlyProjectNeedsNoName(t *testing.T) {
	h := newAgent(t, "7")
	for _, body := range []string{"", "{}"} {
		h.must("root", "POST", syncStatus+"/sync", body)
	}
	require.Len(t, h.beside.Commands, 2)
	require.Equal(t, "7", h.beside.Commands[1].(*railsrpc.SyncRequest).GetProjectId())
}

func TestCommands_AreRefused(t *testing.T) {
	for _, row := range []struct {
		name, who, verb, body string
		follows               []string
		refusal               error
		code                  int
		message               string
	}{
		{"nothing to command", "root", "sync", "", nil, nil, 404, "404 Not Found - agent dev follows no manifest project, as far as is known"},
		{"several to command", "root", "sync", "", []string{"7", "8"}, nil, 400, "manifest_project is missing: the agent follows 7, 8"},
		{"a body that is no JSON", "root", "sync", "x", []string{"7"}, nil, 400, "400 Bad request - the body must be JSON: invalid character 'x' looking for beginning of value"},
		{"an approval of nothing", "root", "approve_prune", "{}", []string{"7"}, nil, 400, "commit_id is invalid: want a whole commit ID of 40 hexadecimal digits"},
		{"two refs to compare", "root", "diff", `{"branch":"a","tag":"b"}`, []string{"7"}, nil, 400, "branch, tag, commit are mutually exclusive"},
		{"a short commit to compare", "root", "diff", `{"commit":"abc"}`, []string{"7"}, nil, 400, "commit is invalid: want a whole commit ID of 40 hexadecimal digits"},
		{"who may only read", "ada", "sync", "", []string{"7"}, nil, 403, "403 Forbidden"},
		{"who may only read does not compare", "ada", "diff", "", []string{"7"}, nil, 403, "403 Forbidden"},
		{"what kas does not know", "root", "sync", "", []string{"7"}, &kasapi.Error{Code: codes.NotFound, Message: "no such project"}, 404, "404 Not Found - no such project"},
		{"what the agent cannot do", "root", "resume", "", []string{"7"}, &kasapi.Error{Code: codes.FailedPrecondition, Message: "not now"}, 409, "409 Conflict - not now"},
		{"an agent that is away", "root", "suspend", "", []string{"7"}, &kasapi.Error{Code: codes.Unavailable, Message: "away"}, 503, "503 Service Unavailable - away"},
		{"an agent that is silent", "root", "suspend", "", []string{"7"}, &kasapi.Error{Code: codes.DeadlineExceeded, Message: "silent"}, 504, "504 Gateway Timeout - silent"},
		{"a kas that is older", "root", "diff", "", []string{"7"}, &kasapi.Error{Code: codes.Unimplemented, Message: "old"}, 502, "502 Bad Gateway - old"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newAgent(t, row.follows...)
			_, err := h.reg.SetMember(t.Context(), 1, 2, registry.Developer)
			require.NoError(t, err)
			h.beside.Refusal = row.refusal
			code, answer := h.do(row.who, "POST", syncStatus+"/"+row.verb, row.body)
			require.Equal(t, row.code, code)
			require.JSONEq(t, fmt.Sprintf(`{"message":%q}`, row.message), answer)
		})
	}
}

func TestDiff_IsStructured(t *testing.T) {
	h := newAgent(t, "7")
	h.beside.Differences = &railsrpc.DiffResponse{CommitId: commit}
	require.JSONEq(t, `{"commit_id":"`+commit+`","errors":[],"differences":[]}`, h.must("root", "POST", syncStatus+"/diff", ""))

	h.beside.Differences = &railsrpc.DiffResponse{
		CommitId: commit, Errors: []*syncstatus.FileError{{Path: "a.yaml", Line: 1, Message: "no"}},
		Differences: []*syncstatus.Difference{{
			Id: &syncstatus.ObjectID{Kind: "ConfigMap", Name: "a"}, Action: syncstatus.Action_ACTION_CONFIGURED,
			Fields: []*syncstatus.FieldDifference{{Path: ".data.a", Before: `"1"`, After: `"2"`}},
		}},
	}
	require.JSONEq(t, `{"commit_id":"`+commit+`","errors":[{"path":"a.yaml","line":1,"message":"no"}],"differences":[
		{"id":{"kind":"ConfigMap","name":"a"},"action":"ACTION_CONFIGURED","fields":[{"path":".data.a","before":"\"1\"","after":"\"2\""}]}]}`,
		h.must("root", "POST", syncStatus+"/diff", `{"tag":"v1"}`))
	require.True(t, proto.Equal(&railsrpc.DiffRequest{
		AgentId: 1, ProjectId: "7", By: "root", Ref: &agentcfg.GitRef{Ref: &agentcfg.GitRef_Tag{Tag: "v1"}},
	}, h.beside.Commands[1]))
}

func TestSyncStatus_CarriesWhatWaitsForPeople(t *testing.T) {
	h := newAgent(t)
	h.status(&syncstatus.ProjectStatus{
		ProjectId: "7", State: syncstatus.State_STATE_SUSPENDED,
		Suspension: &syncstatus.Suspension{By: "ada", At: timestamppb.New(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))},
		HeldPrune:  &syncstatus.HeldPrune{CommitId: commit, Reason: "much", Total: 1, Objects: []*syncstatus.ObjectID{{Kind: "ConfigMap", Name: "a"}}},
		Objects: []*syncstatus.ObjectStatus{{
			Id:      &syncstatus.ObjectID{Kind: "ConfigMap", Name: "b"},
			Contest: &syncstatus.Contest{Contenders: []*syncstatus.Contender{{Manager: "hpa", Fields: []string{".data"}}}, Heals: 3},
		}},
	})
	answer := h.must("root", "GET", syncStatus, "")
	for _, want := range []string{
		`"suspension":{"by":"ada","at":"2026-11-22T10:00:00Z"}`,
		`"held_prune":{"commit_id":"` + commit + `","reason":"much","total":1,"objects":[{"kind":"ConfigMap","name":"a"}]}`,
		`"contest":{"contenders":[{"manager":"hpa","fields":[".data"]}],"heals":3}`,
	} {
		require.Contains(t, strings.ReplaceAll(answer, " ", ""), want)
	}
}
