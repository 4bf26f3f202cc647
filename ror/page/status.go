package page

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// maxObjects is how many objects of a project a page shows, those at fault first.
const maxObjects = 500

// badge is a word and how it looks.
type badge struct {
	Label string
	Class string // good, bad, busy, warn, or nothing
}

// statusView is one manifest project in one cluster.
type statusView struct {
	ID        string
	Heading   string
	URL       string
	State     badge
	Connected bool
	Message   string
	Ref       string
	Wanted    string
	Applied   string
	Detected  string
	Sent      string
	AppliedAt string
	Ready     string
	Counts    string
	Errors    []fileError
	Objects   []objectView
	Total     int
	Hidden    int

	Suspension *suspensionView
	Held       *heldView
	// Controls are there for who may administer the agent.
	Controls *controlsView
}

type fileError struct {
	Place   string
	Message string
}

type objectView struct {
	Kind    string
	Name    string
	Action  badge
	Health  badge
	Message string
	// Contest says who fights over the object; empty: nobody.
	Contest []string
	Source  string
}

// statusID tells one status from another on a page.
func statusID(p *syncstatus.ProjectStatus) string {
	return fmt.Sprintf("%d-%s", p.GetAgentId(), p.GetProjectId())
}

func toStatusView(p *syncstatus.ProjectStatus, heading, url string) statusView {
	v := statusView{
		ID:      statusID(p),
		Heading: heading, URL: url,
		State: stateBadge(p.GetState()), Connected: p.GetConnected(), Message: p.GetMessage(),
		Ref: p.GetRef(), Wanted: p.GetWantedCommit(), Applied: p.GetAppliedCommit(),
		Detected: moment(p.GetTimes().GetDetectedAt()), Sent: moment(p.GetTimes().GetSentAt()),
		AppliedAt: moment(p.GetTimes().GetAppliedAt()), Ready: moment(p.GetTimes().GetReadyAt()),
		Counts: counts(p.GetCounts()),
		Total:  len(p.GetObjects()),

		Suspension: toSuspensionView(p.GetSuspension()), Held: toHeldView(p.GetHeldPrune()),
	}
	if v.Held != nil && strings.Contains(v.Message, v.Held.Reason) {
		v.Held.Reason = "" // said already
	}
	if v.Suspension != nil && strings.Contains(v.Message, "suspended by "+v.Suspension.By) {
		v.Suspension = nil // said already
	}
	for _, e := range p.GetErrors() {
		v.Errors = append(v.Errors, toFileError(e))
	}
	objects := slices.Clone(p.GetObjects())
	slices.SortStableFunc(objects, byFault)
	if len(objects) > maxObjects {
		v.Hidden = len(objects) - maxObjects
		objects = objects[:maxObjects]
	}
	for _, o := range objects {
		v.Objects = append(v.Objects, toObjectView(o))
	}
	return v
}

func toFileError(e *syncstatus.FileError) fileError {
	return fileError{Place: place(e.GetPath(), e.GetLine()), Message: e.GetMessage()}
}

func place(path string, line uint32) string {
	if path == "" || line == 0 {
		return path
	}
	return fmt.Sprintf("%s:%d", path, line)
}

func toObjectView(o *syncstatus.ObjectStatus) objectView {
	return objectView{
		Kind: kindOf(o.GetId()), Name: nameOf(o.GetId()), Message: o.GetMessage(), Contest: toContestView(o),
		Action: actionBadge(o.GetAction()), Health: healthBadge(o.GetHealth()),
		Source: place(o.GetSourcePath(), o.GetSourceLine()),
	}
}

// byFault puts first what wants a person's attention, then what is on its way.
func byFault(a, b *syncstatus.ObjectStatus) int {
	return cmp.Or(
		cmp.Compare(fault(a), fault(b)),
		cmp.Compare(a.GetSourcePath(), b.GetSourcePath()),
		cmp.Compare(a.GetSourceLine(), b.GetSourceLine()),
	)
}

func fault(o *syncstatus.ObjectStatus) int {
	switch {
	case o.GetAction() == syncstatus.Action_ACTION_FAILED:
		return 0
	case o.GetHealth() == syncstatus.Health_HEALTH_FAILED, o.GetContest() != nil:
		return 1
	case o.GetAction() == syncstatus.Action_ACTION_PRUNED:
		return 5 // gone, as asked, and so is its health
	case o.GetHealth() == syncstatus.Health_HEALTH_NOT_FOUND, o.GetHealth() == syncstatus.Health_HEALTH_TERMINATING:
		return 2
	case o.GetHealth() == syncstatus.Health_HEALTH_IN_PROGRESS, o.GetAction() == syncstatus.Action_ACTION_PENDING,
		o.GetAction() == syncstatus.Action_ACTION_PRUNING:
		return 3
	case o.GetAction() == syncstatus.Action_ACTION_SKIPPED:
		return 4
	}
	return 5
}

func stateBadge(s syncstatus.State) badge {
	b := badge{Label: label(s.String(), "STATE_")}
	switch s {
	case syncstatus.State_STATE_UNSPECIFIED:
		b.Label = "No project"
	case syncstatus.State_STATE_SYNCED:
		b.Class = "good"
	case syncstatus.State_STATE_FAILED:
		b.Class = "bad"
	case syncstatus.State_STATE_PARTIAL, syncstatus.State_STATE_OFFLINE:
		b.Class = "warn"
	case syncstatus.State_STATE_SYNCING, syncstatus.State_STATE_PROGRESSING, syncstatus.State_STATE_PENDING:
		b.Class = "busy"
	case syncstatus.State_STATE_SUSPENDED:
	}
	return b
}

func actionBadge(a syncstatus.Action) badge {
	b := badge{Label: label(a.String(), "ACTION_")}
	switch a {
	case syncstatus.Action_ACTION_UNSPECIFIED:
		b.Label = "Unknown"
	case syncstatus.Action_ACTION_CREATED, syncstatus.Action_ACTION_CONFIGURED, syncstatus.Action_ACTION_PRUNED:
		b.Class = "good"
	case syncstatus.Action_ACTION_FAILED:
		b.Class = "bad"
	case syncstatus.Action_ACTION_PENDING, syncstatus.Action_ACTION_PRUNING:
		b.Class = "busy"
	case syncstatus.Action_ACTION_SKIPPED:
		b.Class = "warn"
	case syncstatus.Action_ACTION_UNCHANGED:
	}
	return b
}

func healthBadge(h syncstatus.Health) badge {
	b := badge{Label: label(h.String(), "HEALTH_")}
	switch h {
	case syncstatus.Health_HEALTH_UNSPECIFIED:
		b.Label = "Unknown"
	case syncstatus.Health_HEALTH_CURRENT:
		b.Class = "good"
	case syncstatus.Health_HEALTH_FAILED:
		b.Class = "bad"
	case syncstatus.Health_HEALTH_IN_PROGRESS, syncstatus.Health_HEALTH_TERMINATING:
		b.Class = "busy"
	case syncstatus.Health_HEALTH_UNKNOWN, syncstatus.Health_HEALTH_NOT_FOUND:
	}
	return b
}

// label turns a name of the protocol into words: HEALTH_IN_PROGRESS is "In progress".
func label(name, prefix string) string {
	words := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", " "))
	if words == "" {
		return words
	}
	return strings.ToUpper(words[:1]) + words[1:]
}

func counts(c *syncstatus.Counts) string {
	parts := []string{strconv.FormatUint(uint64(c.GetTotal()), 10)}
	for _, n := range []struct {
		n    uint32
		what string
	}{
		{c.GetFailed(), "failed"}, {c.GetUnhealthy(), "not healthy"}, {c.GetCreated(), "created"}, {c.GetConfigured(), "configured"},
		{c.GetUnchanged(), "unchanged"}, {c.GetPruned(), "pruned"}, {c.GetSkipped(), "skipped"},
	} {
		if n.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	return strings.Join(parts, ", ")
}

// moment is a time as pages show it; empty: not reached.
func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return momentOf(t.AsTime())
}

func momentOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05.000Z")
}

// shortCommit is the first digits of a commit, as Git shows them.
func shortCommit(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}
