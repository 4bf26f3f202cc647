package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/inventory"
)

// phase is how far the newest commit has come.
type phase int

const (
	phasePending phase = iota
	phaseSyncing
	phaseRan
)

// namedObjects is how many objects a message names before it only counts them.
const namedObjects = 3

// summary is all that a project's state follows from.
type summary struct {
	phase   phase
	outcome Outcome
	// trouble keeps the sync from going on for now.
	trouble string
	// refused says why the newest set could not be taken.
	refused string
	// suspended, unless nil, is who switched syncing off.
	suspended *Suspension
	ready     bool
	late      []inventory.ID
	// held are deletions that have not ended in time, in words.
	held []string
	// unhealthy is how many objects' health is failed, which waiting does not mend.
	unhealthy int
	// contests are the objects that somebody else keeps changing, in words.
	contests []string
	// applied is how many objects the cluster holds as the set asks.
	applied int
	// fault is what was said of the first object that failed.
	fault string
}

// verdict sums a project up: its state, and one sentence for people that says why
// and what to do, where the state is not plain.
func verdict(s summary) (syncstatus.State, string) {
	if s.suspended != nil {
		return syncstatus.State_STATE_SUSPENDED, suspendedMessage(s)
	}
	if s.refused != "" {
		return syncstatus.State_STATE_FAILED, s.refused
	}
	switch s.phase {
	case phasePending:
		return syncstatus.State_STATE_PENDING, s.trouble
	case phaseSyncing:
		return syncstatus.State_STATE_SYNCING, s.trouble
	case phaseRan:
	}
	state, message := ranVerdict(s)
	if s.trouble != "" {
		message = strings.TrimPrefix(message+"; "+s.trouble, "; ")
	}
	return state, message
}

// suspendedMessage says who did it, and what to do.
func suspendedMessage(s summary) string {
	since := ""
	if !s.suspended.At.IsZero() {
		since = " since " + s.suspended.At.UTC().Format(time.DateTime) + " UTC"
	}
	message := fmt.Sprintf("suspended by %s%s: nothing is applied, healed or deleted until it is resumed", s.suspended.By, since)
	if s.refused != "" {
		message += "; " + s.refused
	}
	return message
}

// ranVerdict is the verdict once a run has ended.
func ranVerdict(s summary) (syncstatus.State, string) {
	o := s.outcome
	faults := faults(s)
	switch {
	case o.Failed > 0 && s.applied == 0:
		return syncstatus.State_STATE_FAILED, strings.Join(faults, "; ")
	case len(faults) > 0:
		return syncstatus.State_STATE_PARTIAL, strings.Join(faults, "; ")
	case o.DryRun:
		return syncstatus.State_STATE_SUSPENDED, "dry run: nothing is applied; remove dry_run_strategy from the agent's configuration to apply"
	case s.ready:
		return syncstatus.State_STATE_SYNCED, ""
	default:
		return syncstatus.State_STATE_PROGRESSING, ""
	}
}

// faults lists what is wrong although the run has ended, worst first.
func faults(s summary) []string {
	var faults []string
	o := s.outcome
	if o.Failed > 0 {
		text := fmt.Sprintf("%d of %d objects failed", o.Failed, max(o.Total, o.Failed))
		if s.fault != "" {
			text += ": " + s.fault
		}
		faults = append(faults, text)
	}
	switch {
	case o.FileErrors > 0:
		faults = append(faults, "nothing is pruned until the mistakes in the repository are mended")
	case !o.Complete && o.HeldBack == "":
		faults = append(faults, "the repository could not be read in full; nothing is pruned until it can be")
	}
	if o.HeldBack != "" {
		faults = append(faults, o.HeldBack)
	}
	if len(s.late) > 0 {
		faults = append(faults, fmt.Sprintf("%s not healthy in time: %s", countOf(len(s.late)), names(s.late)))
	} else if s.unhealthy > 0 {
		faults = append(faults, countOf(s.unhealthy)+" failed after being applied")
	}
	if len(s.contests) > 0 {
		faults = append(faults, fmt.Sprintf("somebody else keeps changing %s: %s", countOf(len(s.contests)), list(s.contests)))
	}
	if len(s.held) > 0 {
		faults = append(faults, fmt.Sprintf("%s not deleted in time: %s", countOf(len(s.held)), list(s.held)))
	}
	return faults
}

func countOf(n int) string {
	if n == 1 {
		return "1 object"
	}
	return fmt.Sprintf("%d objects", n)
}

// names lists the first of ids, as people write them.
func names(ids []inventory.ID) string {
	var out []string
	for _, id := range ids {
		out = append(out, describe(id))
	}
	return list(out)
}

// list joins the first of the texts and counts the others.
func list(texts []string) string {
	out := slices.Clone(texts[:min(len(texts), namedObjects)])
	if more := len(texts) - len(out); more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, ", ")
}

// describe names an object as "Kind namespace/name".
func describe(id inventory.ID) string {
	if id.Namespace == "" {
		return id.GroupKind.Kind + " " + id.Name
	}
	return id.GroupKind.Kind + " " + id.Namespace + "/" + id.Name
}
