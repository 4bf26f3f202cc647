package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/registry"
)

func TestCreateAgent_NameRule(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "root", "app", registry.Private)
	for name, good := range map[string]bool{
		"a": true, "dev-1": true, strings.Repeat("a", 63): true,
		"": false, "Dev": false, "-a": false, "a-": false, "a_b": false, "a/b": false, strings.Repeat("a", 64): false,
	} {
		_, err := r.CreateAgent(t.Context(), p, name, root.ID)
		require.Equal(t, good, err == nil, "%q: %v", name, err)
	}
	_, err := r.CreateAgent(t.Context(), p, "a", root.ID)
	require.ErrorIs(t, err, registry.ErrConflict)
}

func TestAgentByToken_NotesUseOnceAMinuteUntilRevoked(t *testing.T) {
	r, clock := open(t)
	root := addUser(t, r, "root", true)
	a := addAgent(t, r, addProject(t, r, root, "root", "app", registry.Private), "dev", root)
	known, token, err := r.CreateAgentToken(t.Context(), a.ID, "first", "", root.ID)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(token, "glagent-"))
	used := func() time.Time {
		got, err := r.AgentByToken(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, a, got)
		list, err := r.AgentTokens(t.Context(), a.ID)
		require.NoError(t, err)
		return list[0].LastUsedAt
	}
	first := clock.Now()
	require.Equal(t, first, used())
	clock.SetTime(first.Add(59 * time.Second))
	require.Equal(t, first, used(), "a write each time would cost too much")
	clock.SetTime(first.Add(60 * time.Second))
	require.Equal(t, first.Add(60*time.Second), used())

	require.NoError(t, r.RevokeAgentToken(t.Context(), a.ID, known.ID))
	_, err = r.AgentByToken(t.Context(), token)
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	require.ErrorIs(t, r.RevokeAgentToken(t.Context(), a.ID, known.ID), registry.ErrNotFound)
	list, err := r.AgentTokens(t.Context(), a.ID)
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestDeleteAgent_TakesTokensAndStatusesAlong(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	a := addAgent(t, r, addProject(t, r, root, "root", "app", registry.Private), "dev", root)
	_, token, err := r.CreateAgentToken(t.Context(), a.ID, "first", "", root.ID)
	require.NoError(t, err)
	require.NoError(t, r.ApplyUpdate(t.Context(), statusUpdate(a.ID, status("root/app", time.Unix(1, 0), syncstatus.State_STATE_SYNCED))))

	require.NoError(t, r.DeleteAgent(t.Context(), a.ID))
	_, err = r.AgentByToken(t.Context(), token)
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	require.ErrorIs(t, r.ApplyUpdate(t.Context(), statusUpdate(a.ID, status("root/app", time.Unix(2, 0), syncstatus.State_STATE_SYNCED))), registry.ErrNotFound)
	states, err := r.States(t.Context())
	require.NoError(t, err)
	require.Empty(t, states)
}

func status(project string, at time.Time, state syncstatus.State) *syncstatus.ProjectStatus {
	return &syncstatus.ProjectStatus{
		AgentName: "dev", ProjectId: project, ProjectPath: project, State: state, WantedCommit: "c", UpdatedAt: timestamppb.New(at),
		Objects: []*syncstatus.ObjectStatus{{Id: &syncstatus.ObjectID{Kind: "ConfigMap", Name: "a"}, Action: syncstatus.Action_ACTION_CREATED}},
	}
}

func statusUpdate(agent int64, s *syncstatus.ProjectStatus) *syncstatus.Update {
	return &syncstatus.Update{AgentId: agent, Update: &syncstatus.Update_Status{Status: s}}
}

func TestApplyUpdate_KeepsTheNewestStatus(t *testing.T) {
	r, clock := open(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "root", "app", registry.Private)
	a := addAgent(t, r, p, "dev", root)
	now := clock.Now()
	state := func() syncstatus.State {
		list, err := r.Statuses(t.Context(), a.ID, "", true)
		require.NoError(t, err)
		require.Len(t, list, 1)
		return list[0].GetState()
	}
	for _, step := range []struct {
		at    time.Time
		state syncstatus.State
		want  syncstatus.State
		why   string
	}{
		{now, syncstatus.State_STATE_SYNCING, syncstatus.State_STATE_SYNCING, "the first is taken"},
		{now.Add(-time.Second), syncstatus.State_STATE_PENDING, syncstatus.State_STATE_SYNCING, "one that comes late is dropped"},
		{now, syncstatus.State_STATE_FAILED, syncstatus.State_STATE_FAILED, "of two in one moment the later wins"},
		{now.Add(time.Hour), syncstatus.State_STATE_SYNCED, syncstatus.State_STATE_SYNCED, "a clock ahead is believed for now"},
		{now, syncstatus.State_STATE_PARTIAL, syncstatus.State_STATE_PARTIAL, "and silences nobody"},
	} {
		require.NoError(t, r.ApplyUpdate(t.Context(), statusUpdate(a.ID, status("root/app", step.at, step.state))))
		require.Equal(t, step.want, state(), step.why)
	}
}

func TestStatuses_RoundTripAndFilter(t *testing.T) {
	r, clock := open(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "root", "app", registry.Private)
	a := addAgent(t, r, p, "dev", root)
	sent := status("root/app", clock.Now(), syncstatus.State_STATE_FAILED)
	require.NoError(t, r.ApplyUpdate(t.Context(), statusUpdate(a.ID, sent)))
	require.NoError(t, r.ApplyUpdate(t.Context(), statusUpdate(a.ID, status("other/app", clock.Now(), syncstatus.State_STATE_SYNCED))))
	require.NoError(t, r.ApplyUpdate(t.Context(), &syncstatus.Update{AgentId: a.ID, Update: &syncstatus.Update_Configuration{
		Configuration: &syncstatus.ConfigurationStatus{Error: &syncstatus.FileError{Path: "config.yaml", Line: 3, Message: "no"}},
	}}))

	want := proto.CloneOf(sent)
	want.AgentId = a.ID
	list, err := r.Statuses(t.Context(), a.ID, "root/app", true)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.True(t, proto.Equal(want, list[0]), "%v", list[0])

	all, err := r.Statuses(t.Context(), a.ID, "", false)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Empty(t, all[0].GetObjects())

	here, err := r.StatusesOf(t.Context(), p, true)
	require.NoError(t, err)
	require.Len(t, here, 1)
	require.True(t, proto.Equal(want, here[0]))

	states, err := r.States(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[int64]registry.AgentStates{a.ID: {
		Projects:            map[syncstatus.State]int{syncstatus.State_STATE_FAILED: 1, syncstatus.State_STATE_SYNCED: 1},
		ConfigurationFailed: true,
	}}, states)

	require.NoError(t, r.ApplyUpdate(t.Context(), &syncstatus.Update{AgentId: a.ID, Update: &syncstatus.Update_RemovedProjectId{RemovedProjectId: "root/app"}}))
	all, err = r.Statuses(t.Context(), a.ID, "", false)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, "other/app", all[0].GetProjectId())
}

func TestApplyUpdate_RefusesWhatSaysNothing(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	a := addAgent(t, r, addProject(t, r, root, "root", "app", registry.Private), "dev", root)
	var invalid *registry.InvalidError
	require.ErrorAs(t, r.ApplyUpdate(t.Context(), &syncstatus.Update{AgentId: a.ID}), &invalid)
	require.ErrorAs(t, r.ApplyUpdate(t.Context(), statusUpdate(a.ID, &syncstatus.ProjectStatus{})), &invalid)
}
