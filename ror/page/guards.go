package page

import (
	"fmt"
	"strings"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// suspensionView says who switched syncing off.
type suspensionView struct {
	By, Since string
}

// heldView is what a commit would delete.
type heldView struct {
	Commit  string
	Reason  string
	Total   uint32
	Objects []string
	// More are not listed.
	More int
}

// maxHeld is how many objects are listed that a commit would delete.
const maxHeld = 100

func toSuspensionView(s *syncstatus.Suspension) *suspensionView {
	if s == nil {
		return nil
	}
	return &suspensionView{By: s.GetBy(), Since: moment(s.GetAt())}
}

func toHeldView(h *syncstatus.HeldPrune) *heldView {
	if h == nil {
		return nil
	}
	v := &heldView{Commit: h.GetCommitId(), Reason: h.GetReason(), Total: h.GetTotal()}
	for _, id := range h.GetObjects()[:min(len(h.GetObjects()), maxHeld)] {
		v.Objects = append(v.Objects, kindOf(id)+" "+nameOf(id))
	}
	v.More = int(v.Total) - len(v.Objects)
	return v
}

// kindOf is an object's kind with its group: "Deployment (apps)".
func kindOf(id *syncstatus.ObjectID) string {
	if id.GetGroup() == "" {
		return id.GetKind()
	}
	return id.GetKind() + " (" + id.GetGroup() + ")"
}

// nameOf is an object's name with its namespace: "web/shop".
func nameOf(id *syncstatus.ObjectID) string {
	if id.GetNamespace() == "" {
		return id.GetName()
	}
	return id.GetNamespace() + "/" + id.GetName()
}

// toContestView says in lines who fights over an object and what over, as far as its
// message does not.
func toContestView(o *syncstatus.ObjectStatus) []string {
	c := o.GetContest()
	if c == nil {
		return nil
	}
	var lines []string
	for _, who := range c.GetContenders() {
		if fields := strings.Join(who.GetFields(), ", "); !strings.Contains(o.GetMessage(), who.GetManager()) || !strings.Contains(o.GetMessage(), fields) {
			lines = append(lines, fmt.Sprintf("%s also sets %s", who.GetManager(), fields))
		}
	}
	if len(c.GetContenders()) == 0 && o.GetMessage() == "" {
		lines = append(lines, "Somebody keeps deleting it")
	}
	times := fmt.Sprintf("Put right %d times", c.GetHeals())
	if c.GetHeals() == 1 {
		times = "Put right once"
	}
	if since := moment(c.GetSince()); since != "" {
		times += " since " + since
	}
	return append(lines, times)
}
