package status

import (
	"strings"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// Facts is all that a project's state follows from.
type Facts struct {
	// Connected: a stream of the agent is open for the project; WasConnected: there has
	// been one.
	Connected, WasConnected bool
	// Present: the agent is connected to this kas, for whatever purpose.
	Present bool

	// GitFailed: nothing can be read from Git at present. GitMessage says why, or what is
	// worth knowing about what was read.
	GitFailed  bool
	GitMessage string
	// Wanted is the commit that the ref names; empty: not known.
	Wanted string
	// Sent: the whole set of Wanted was handed to the stream.
	Sent bool
	// FileErrors of Wanted, and the first of them in words.
	FileErrors int
	FirstError string

	// Reported is what the agent says of ReportedCommit; Applied is the newest commit it
	// finished applying. StateUnspecified: the agent has said nothing.
	Reported       syncstatus.State
	ReportedCommit string
	Applied        string
	AgentMessage   string

	// Objects that the agent reported, how many failed, and how many that are not left
	// alone on purpose are not healthy.
	Objects, Failed, Unhealthy int
}

// State sums a project up, and says in a sentence for people why, where that is not plain.
func State(f Facts) (syncstatus.State, string) {
	switch {
	case f.GitFailed && f.Connected && f.Applied == "" && f.Wanted == "":
		// There is no commit yet, as far as kas knows.
		return syncstatus.State_STATE_PENDING, f.GitMessage
	case f.GitFailed && f.Applied == "":
		return syncstatus.State_STATE_FAILED, f.GitMessage
	case f.GitFailed && f.Connected:
		// What the agent applied before stays in force.
		return syncstatus.State_STATE_PARTIAL, f.GitMessage
	case !f.Connected && f.Present && !f.WasConnected:
		return syncstatus.State_STATE_PENDING, join("waiting for the agent to follow the project", f.GitMessage)
	case !f.Connected && f.Present:
		return syncstatus.State_STATE_OFFLINE, join("the agent is connected, but does not follow the project at present; what is shown is the last it said", f.GitMessage)
	case !f.Connected:
		return syncstatus.State_STATE_OFFLINE, join("the agent is not connected; what is shown is the last it said", f.GitMessage)
	case f.Reported == syncstatus.State_STATE_SUSPENDED:
		return f.Reported, join(f.AgentMessage, f.GitMessage)
	case f.Wanted == "":
		return syncstatus.State_STATE_PENDING, join("waiting for the repository to be read", f.GitMessage)
	case f.ReportedCommit != f.Wanted && f.Sent:
		return syncstatus.State_STATE_SYNCING, join(f.AgentMessage, f.GitMessage)
	case f.ReportedCommit != f.Wanted:
		return syncstatus.State_STATE_PENDING, join("the commit is on its way to the agent", f.GitMessage)
	}
	return settled(f), join(f.FirstError, f.AgentMessage, f.GitMessage)
}

// settled is the state where the agent speaks of the wanted commit: what it says, unless
// that is better than the facts.
func settled(f Facts) syncstatus.State {
	switch f.Reported {
	case syncstatus.State_STATE_FAILED, syncstatus.State_STATE_PENDING:
		return f.Reported
	case syncstatus.State_STATE_PARTIAL, syncstatus.State_STATE_PROGRESSING, syncstatus.State_STATE_SYNCED:
	default:
		return syncstatus.State_STATE_SYNCING
	}
	switch {
	case f.FileErrors > 0 && f.Objects == 0:
		return syncstatus.State_STATE_FAILED
	case f.Reported == syncstatus.State_STATE_PARTIAL, f.FileErrors > 0, f.Failed > 0:
		return syncstatus.State_STATE_PARTIAL
	case f.Applied != f.Wanted:
		return syncstatus.State_STATE_SYNCING
	case f.Reported == syncstatus.State_STATE_PROGRESSING, f.Unhealthy > 0:
		return syncstatus.State_STATE_PROGRESSING
	}
	return syncstatus.State_STATE_SYNCED
}

// join puts what there is of sentences together.
func join(sentences ...string) string {
	var b strings.Builder
	for _, s := range sentences {
		if s == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		b.WriteString(s)
	}
	return b.String()
}
