package status

import (
	"testing"

	"github.com/kas-agentk/kas/api/syncstatus"
)

func TestState_FollowsFromTheFacts(t *testing.T) {
	// synced is the best there is; each row spoils it.
	synced := func(spoil func(*Facts)) Facts {
		f := Facts{
			Connected: true, WasConnected: true, Present: true,
			Wanted: "b", Sent: true,
			Reported: syncstatus.State_STATE_SYNCED, ReportedCommit: "b", Applied: "b",
			Objects: 3,
		}
		spoil(&f)
		return f
	}
	for name, row := range map[string]struct {
		facts   Facts
		want    syncstatus.State
		message string
	}{
		"everything is well": {synced(func(*Facts) {}), syncstatus.State_STATE_SYNCED, ""},
		"something is worth knowing of the commit": {
			synced(func(f *Facts) { f.GitMessage = "no file matched" }), syncstatus.State_STATE_SYNCED, "no file matched",
		},
		"an object is not healthy although the agent says so": {
			synced(func(f *Facts) { f.Unhealthy = 1 }), syncstatus.State_STATE_PROGRESSING, "",
		},
		"the agent waits for health": {
			synced(func(f *Facts) { f.Reported = syncstatus.State_STATE_PROGRESSING }), syncstatus.State_STATE_PROGRESSING, "",
		},
		"a file is at fault": {
			synced(func(f *Facts) { f.FileErrors, f.FirstError = 1, "a.yaml:3: bad" }), syncstatus.State_STATE_PARTIAL, "a.yaml:3: bad",
		},
		"a file is at fault and health is awaited": {
			synced(func(f *Facts) { f.FileErrors, f.Reported = 1, syncstatus.State_STATE_PROGRESSING }), syncstatus.State_STATE_PARTIAL, "",
		},
		"files are at fault and nothing is left": {
			synced(func(f *Facts) { f.FileErrors, f.Objects = 1, 0 }), syncstatus.State_STATE_FAILED, "",
		},
		"an object failed although the agent says so": {
			synced(func(f *Facts) { f.Failed = 1 }), syncstatus.State_STATE_PARTIAL, "",
		},
		"the agent says that a part failed": {
			synced(func(f *Facts) { f.Reported, f.AgentMessage = syncstatus.State_STATE_PARTIAL, "1 of 3 objects failed" }),
			syncstatus.State_STATE_PARTIAL, "1 of 3 objects failed",
		},
		"the agent says that all failed": {
			synced(func(f *Facts) { f.Reported = syncstatus.State_STATE_FAILED }), syncstatus.State_STATE_FAILED, "",
		},
		"the agent is at it": {
			synced(func(f *Facts) { f.Reported, f.Applied = syncstatus.State_STATE_SYNCING, "a" }), syncstatus.State_STATE_SYNCING, "",
		},
		"the agent claims synced without having applied the commit": {
			synced(func(f *Facts) { f.Applied = "a" }), syncstatus.State_STATE_SYNCING, "",
		},
		"a state that does not exist counts as syncing": {
			synced(func(f *Facts) { f.Reported = 99 }), syncstatus.State_STATE_SYNCING, "",
		},
		"a newer commit is with the agent": {
			synced(func(f *Facts) { f.Wanted = "c" }), syncstatus.State_STATE_SYNCING, "",
		},
		"a newer commit has not reached the agent": {
			synced(func(f *Facts) { f.Wanted, f.Sent = "c", false }), syncstatus.State_STATE_PENDING, "the commit is on its way to the agent",
		},
		"the ref was not read yet": {
			synced(func(f *Facts) { f.Wanted = "" }), syncstatus.State_STATE_PENDING, "waiting for the repository to be read",
		},
		"syncing is switched off": {
			synced(func(f *Facts) { f.Reported, f.AgentMessage = syncstatus.State_STATE_SUSPENDED, "dry run" }),
			syncstatus.State_STATE_SUSPENDED, "dry run",
		},
		"Git fails and something is applied": {
			synced(func(f *Facts) { f.GitFailed, f.GitMessage = true, "no branch main" }), syncstatus.State_STATE_PARTIAL, "no branch main",
		},
		"the repository is empty": {
			synced(func(f *Facts) { f.GitFailed, f.GitMessage, f.Applied, f.Wanted = true, "empty", "", "" }),
			syncstatus.State_STATE_PENDING, "empty",
		},
		"the first commit cannot be read": {
			synced(func(f *Facts) { f.GitFailed, f.GitMessage, f.Applied = true, "overloaded", "" }),
			syncstatus.State_STATE_FAILED, "overloaded",
		},
		"the agent may not read the project, so that it has no stream": {
			Facts{Present: true, GitFailed: true, GitMessage: "no access"}, syncstatus.State_STATE_FAILED, "no access",
		},
		"the agent has not begun": {
			Facts{Present: true}, syncstatus.State_STATE_PENDING, "waiting for the agent to follow the project",
		},
		"the agent is gone": {
			synced(func(f *Facts) { f.Connected, f.Present = false, false }), syncstatus.State_STATE_OFFLINE,
			"the agent is not connected; what is shown is the last it said",
		},
		"the agent is gone and Git fails": {
			synced(func(f *Facts) { f.Connected, f.Present, f.GitFailed = false, false, true }), syncstatus.State_STATE_OFFLINE,
			"the agent is not connected; what is shown is the last it said",
		},
		"the agent is there and its stream is not": {
			synced(func(f *Facts) { f.Connected = false }), syncstatus.State_STATE_OFFLINE,
			"the agent is connected, but does not follow the project at present; what is shown is the last it said",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, message := State(row.facts)
			if got != row.want || message != row.message {
				t.Errorf("got %s %q, want %s %q", got, message, row.want, row.message)
			}
		})
	}
}
