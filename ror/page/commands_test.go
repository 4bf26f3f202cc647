package page_test

import (
	"net/http"
	"net/url"
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
	agentPage = "/root/config/-/cluster_agents/dev"
	held      = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// guarded is a project that is suspended, wants to delete much, and is fought over.
func guarded() *syncstatus.ProjectStatus {
	id := func(name string) *syncstatus.ObjectID {
		return &syncstatus.ObjectID{Group: "apps", Kind: "Deployment", Namespace: "web", Name: name}
	}
	s := &syncstatus.ProjectStatus{
		AgentId: 1, AgentName: "dev", ProjectId: "root/config", ProjectPath: "root/config", Connected: true,
		State: syncstatus.State_STATE_SUSPENDED, Ref: "branch main", WantedCommit: held, AppliedCommit: held,
		Suspension: &syncstatus.Suspension{By: "ada", At: timestamppb.New(start)},
		HeldPrune:  &syncstatus.HeldPrune{CommitId: held, Reason: "It is more than half of what there is.", Total: 120},
		Counts:     &syncstatus.Counts{Total: 1, Configured: 1},
		Objects: []*syncstatus.ObjectStatus{{
			Id: id("shop"), Version: "v1", Action: syncstatus.Action_ACTION_CONFIGURED, Health: syncstatus.Health_HEALTH_CURRENT,
			Message: "agentk and kube-hpa both set .spec.replicas", SourcePath: "web.yaml", SourceLine: 1,
			Contest: &syncstatus.Contest{
				Contenders: []*syncstatus.Contender{{Manager: "<kube-hpa>", Fields: []string{".spec.paused", ".spec.replicas"}}},
				Heals:      5, Since: timestamppb.New(start.Add(-time.Minute)),
			},
		}},
	}
	for range 100 {
		s.HeldPrune.Objects = append(s.HeldPrune.Objects, id("old"))
	}
	return s
}

func TestStatus_ShowsSuspensionHeldDeletionsAndContest(t *testing.T) {
	h := newHouse(t)
	b, _ := h.signIn("root")
	h.status(guarded())
	_, body := b.get(agentPage)
	golden(t, "guarded", strings.ReplaceAll(body, strings.Repeat("<li>Deployment (apps) web/old</li>", 99), "<!-- 99 more -->"))

	byConfig := guarded()
	byConfig.Suspension.By = "the agent's configuration"
	h.status(byConfig)
	_, body = b.get(agentPage)
	require.NotContains(t, body, ">Resume<", "what the configuration says is changed there")
	require.NotContains(t, body, ">Suspend<")

	deleted := guarded()
	deleted.Objects[0].Contest = &syncstatus.Contest{Heals: 1}
	deleted.Objects[0].Message = ""
	h.status(deleted)
	_, body = b.get(agentPage)
	require.Contains(t, body, "Somebody keeps deleting it<br>Put right once")
}

func TestCommands_GoToKasAndComeBack(t *testing.T) {
	h := newHouse(t)
	b, csrf := h.signIn("root")
	h.status(guarded())
	for _, row := range []struct {
		name, verb string
		fields     url.Values
		want       proto.Message
		says       string
	}{
		{"sync", "sync", nil, &railsrpc.SyncRequest{AgentId: 1, ProjectId: "root/config", By: "root"}, "told to sync"},
		{"suspend", "suspend", nil, &railsrpc.SuspendRequest{AgentId: 1, ProjectId: "root/config", By: "root"}, "Suspended: nothing is applied"},
		{"resume", "resume", nil, &railsrpc.ResumeRequest{AgentId: 1, ProjectId: "root/config", By: "root"}, "Resumed"},
		{
			"approve", "approve_prune", url.Values{"commit_id": {held}, "confirmed": {"yes"}},
			&railsrpc.ApprovePruneRequest{AgentId: 1, ProjectId: "root/config", By: "root", CommitId: held}, "Approved: ",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.beside.Commands = nil
			form := url.Values{"csrf": {csrf}, "manifest_project": {"root/config"}, "return_to": {agentPage + "?done=sync"}}
			for name, values := range row.fields {
				form[name] = values
			}
			res, body := b.post(agentPage+"/sync_status/"+row.verb, form)
			require.Equal(t, http.StatusSeeOther, res.StatusCode, body)
			require.Equal(t, agentPage+"?done="+row.verb, res.Header.Get("Location"))
			require.Len(t, h.beside.Commands, 1)
			require.True(t, proto.Equal(row.want, h.beside.Commands[0]), h.beside.Commands[0])
			_, body = b.get(res.Header.Get("Location"))
			require.Contains(t, body, row.says)
		})
	}
}

func TestCommands_AreRefused(t *testing.T) {
	h := newHouse(t)
	b, csrf := h.signIn("root")
	h.status(guarded())
	for _, row := range []struct {
		name, verb string
		fields     url.Values
		refusal    error
		status     int
		says       string
	}{
		{"a form without the session's token", "sync", url.Values{"csrf": {"forged"}}, nil, 403, "out of date"},
		{"an approval that is not confirmed", "approve_prune", url.Values{"commit_id": {held}}, nil, 400, "Nothing was deleted"},
		{"an approval of half a commit ID", "approve_prune", url.Values{"commit_id": {"bbbbbbb"}, "confirmed": {"yes"}}, nil, 400, "Commit_id is invalid"},
		{"an unknown command", "destroy", nil, nil, 404, "no such page"},
		{"what kas refuses", "sync", nil, &kasapi.Error{Code: codes.FailedPrecondition, Message: "it is <suspended>"}, 409, "It is &lt;suspended&gt;."},
		{"an agent that is away", "sync", nil, &kasapi.Error{Code: codes.Unavailable, Message: "agent dev is not connected"}, 503, "Agent dev is not connected."},
	} {
		t.Run(row.name, func(t *testing.T) {
			h.beside.Refusal = row.refusal
			form := url.Values{"csrf": {csrf}, "manifest_project": {"root/config"}, "return_to": {agentPage}}
			for name, values := range row.fields {
				form[name] = values
			}
			res, body := b.post(agentPage+"/sync_status/"+row.verb, form)
			require.Equal(t, row.status, res.StatusCode)
			require.Contains(t, body, row.says)
			if row.status != http.StatusForbidden && row.status != http.StatusNotFound {
				require.Contains(t, body, `<a href="`+agentPage+`">Back to the page</a>`)
			}
		})
	}
}

func TestCommands_AreForMaintainersOfTheAgentsProject(t *testing.T) {
	h := newHouse(t)
	h.status(guarded())
	_, err := h.reg.SetMember(t.Context(), 1, 2, registry.Developer)
	require.NoError(t, err)
	b, csrf := h.signIn("ada")
	_, body := b.get(agentPage)
	require.Contains(t, body, "would delete 120 objects", "everyone who sees the status sees why it stands still")
	require.NotContains(t, body, "/sync_status/")
	for _, verb := range []string{"sync", "suspend", "resume", "approve_prune", "diff"} {
		res, _ := b.post(agentPage+"/sync_status/"+verb, url.Values{"csrf": {csrf}, "manifest_project": {"root/config"}})
		require.Equal(t, http.StatusForbidden, res.StatusCode, verb)
	}
	res, _ := b.get(agentPage + "/sync_status/diff")
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	require.Empty(t, h.beside.Commands)
}

func TestDiff_ShowsWhatWouldChange(t *testing.T) {
	h := newHouse(t)
	b, csrf := h.signIn("root")
	h.status(guarded())
	res, body := b.get(agentPage + "/sync_status/diff?manifest_project=root%2Fconfig")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Contains(t, body, "<option selected>root/config</option>")
	require.Empty(t, h.beside.Commands, "looking at the form asks nobody")

	difference := func(kind, name string, action syncstatus.Action, message string, fields ...*syncstatus.FieldDifference) *syncstatus.Difference {
		return &syncstatus.Difference{
			Id: &syncstatus.ObjectID{Kind: kind, Namespace: "web", Name: name}, Version: "v1", Action: action, Message: message,
			SourcePath: "web.yaml", SourceLine: 3, Fields: fields,
		}
	}
	h.beside.Differences = &railsrpc.DiffResponse{
		CommitId: held, Errors: []*syncstatus.FileError{{Path: "broken.yaml", Line: 7, Message: "did not find expected key"}},
		Differences: []*syncstatus.Difference{
			difference("ConfigMap", "new", syncstatus.Action_ACTION_CREATED, ""),
			difference("ConfigMap", "shop", syncstatus.Action_ACTION_CONFIGURED, "",
				&syncstatus.FieldDifference{Path: ".data.colour", Before: `"<red>"`, After: `"blue"`},
				&syncstatus.FieldDifference{Path: ".data.new", After: `"1"`}),
			difference("Secret", "key", syncstatus.Action_ACTION_CONFIGURED, "",
				&syncstatus.FieldDifference{Path: ".data.password", Before: "(masked)", After: `"(masked, changed)"`}),
			difference("ConfigMap", "bad", syncstatus.Action_ACTION_FAILED, "data: invalid"),
			difference("ConfigMap", "same", syncstatus.Action_ACTION_UNCHANGED, ""),
			difference("ConfigMap", "old", syncstatus.Action_ACTION_PRUNED, ""),
		},
	}
	form := url.Values{"csrf": {csrf}, "manifest_project": {"root/config"}, "kind": {"branch"}, "name": {" topic "}}
	res, body = b.post(agentPage+"/sync_status/diff", form)
	require.Equal(t, http.StatusOK, res.StatusCode)
	golden(t, "diff", body)
	require.True(t, proto.Equal(&railsrpc.DiffRequest{
		AgentId: 1, ProjectId: "root/config", By: "root", Ref: &agentcfg.GitRef{Ref: &agentcfg.GitRef_Branch{Branch: "topic"}},
	}, h.beside.Commands[0]), h.beside.Commands[0])

	for _, row := range []struct {
		kind, name string
		refusal    error
		status     int
		says       string
	}{
		{"branch", "", nil, 400, "Name the branch."},
		{"what it follows", "topic", nil, 400, "Say whether topic is a branch, a tag or a commit."},
		{"commit", "abc", nil, 400, "want a whole commit ID"},
		{"branch", "gone", &kasapi.Error{Code: codes.NotFound, Message: "there is no branch gone"}, 404, "There is no branch gone."},
	} {
		h.beside.Refusal = row.refusal
		form.Set("kind", row.kind)
		form.Set("name", row.name)
		res, body = b.post(agentPage+"/sync_status/diff", form)
		require.Equal(t, row.status, res.StatusCode)
		require.Contains(t, body, row.says)
		require.Contains(t, body, `value="`+row.name+`"`, "the form is as it was filled in")
	}
}
