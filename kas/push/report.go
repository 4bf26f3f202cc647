package push

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

const (
	// maxMessage is where an agent's message about one thing is cut, in bytes.
	maxMessage = 4096
	// maxHeld is how many objects of a held prune are shown.
	maxHeld = 100
)

// checkReport makes sure that a report is one that others can work with. Values of
// enumerations that this kas does not know become unspecified.
func checkReport(r *agentrpc.Report) error {
	for name, id := range map[string]string{"commit_id": r.GetCommitId(), "applied_commit_id": r.GetAppliedCommitId()} {
		if id != "" && !isCommitID(id) {
			return fmt.Errorf("%s %.80q is not a commit ID", name, id)
		}
	}
	if _, known := syncstatus.State_name[int32(r.GetState())]; !known {
		r.State = syncstatus.State_STATE_UNSPECIFIED
	}
	r.Message = clip(r.GetMessage())
	for i, o := range r.GetObjects() {
		if err := checkID(o.GetId()); err != nil {
			return fmt.Errorf("object %d: %w", i, err)
		}
		if _, known := syncstatus.Action_name[int32(o.GetAction())]; !known {
			o.Action = syncstatus.Action_ACTION_UNSPECIFIED
		}
		if _, known := syncstatus.Health_name[int32(o.GetHealth())]; !known {
			o.Health = syncstatus.Health_HEALTH_UNSPECIFIED
		}
		o.Message = clip(o.GetMessage())
		checkContest(o.GetContest())
	}
	for i, id := range r.GetRemoved() {
		if err := checkID(id); err != nil {
			return fmt.Errorf("removed object %d: %w", i, err)
		}
	}
	if s := r.GetSuspension(); s != nil {
		s.By = clip(s.GetBy())
	}
	return checkHeld(r.GetHeldPrune())
}

const (
	// maxContenders is how many managers of one object are shown, and maxContended how
	// many fields of each.
	maxContenders = 20
	maxContended  = 100
)

func checkContest(c *syncstatus.Contest) {
	if c == nil {
		return
	}
	c.Contenders = c.GetContenders()[:min(len(c.GetContenders()), maxContenders)]
	for _, contender := range c.GetContenders() {
		contender.Manager = clip(contender.GetManager())
		contender.Fields = contender.GetFields()[:min(len(contender.GetFields()), maxContended)]
		for i, field := range contender.GetFields() {
			contender.Fields[i] = clip(field)
		}
	}
}

func checkHeld(h *syncstatus.HeldPrune) error {
	if h == nil {
		return nil
	}
	if !isCommitID(h.GetCommitId()) {
		return fmt.Errorf("held_prune.commit_id %.80q is not a commit ID", h.GetCommitId())
	}
	h.Reason = clip(h.GetReason())
	h.Objects = h.GetObjects()[:min(len(h.GetObjects()), maxHeld)]
	for i, id := range h.GetObjects() {
		if err := checkID(id); err != nil {
			return fmt.Errorf("held_prune: object %d: %w", i, err)
		}
	}
	return nil
}

func checkID(id *syncstatus.ObjectID) error {
	if id.GetKind() == "" || id.GetName() == "" {
		return errors.New("has no kind or no name")
	}
	return nil
}

func clip(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + "…"
}
