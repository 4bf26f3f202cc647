package kasctl

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// guardLines says what waits for people in a project: that it is suspended, what
// would be deleted, and who fights over objects.
func guardLines(a *agent, p *syncstatus.ProjectStatus) []string {
	name := projectName(p)
	arguments := (&target{a, p}).arguments()
	var lines []string
	if s := p.GetSuspension(); s != nil {
		who, remedy := "", "to go on: kasctl resume "+arguments
		if !strings.Contains(p.GetMessage(), s.GetBy()) {
			who = fmt.Sprintf("suspended by %s%s; ", s.GetBy(), since(s.GetAt()))
		}
		if s.GetBy() == byConfiguration {
			remedy = "to go on, remove suspend from it"
		}
		lines = append(lines, name+": "+who+remedy)
	}
	if h := p.GetHeldPrune(); h != nil {
		lines = append(lines, fmt.Sprintf("%s: commit %s would delete %s, and waits for approval; to see which and approve: kasctl approve %s %s",
			name, short(h.GetCommitId()), objects(h.GetTotal()), arguments, short(h.GetCommitId())))
	}
	for _, o := range p.GetObjects() {
		if o.GetContest() != nil && o.GetMessage() == "" { // else the message tells
			lines = append(lines, fmt.Sprintf("%s: %s %s is contested: %s", name, kindName(o.GetId()), objectName(o.GetId()), contest(o.GetContest())))
		}
	}
	return lines
}

// byConfiguration is what kas says of who suspended a project where no person did.
const byConfiguration = "the agent's configuration"

// contest says who fights over an object and what over.
func contest(c *syncstatus.Contest) string {
	var who []string
	for _, contender := range c.GetContenders() {
		who = append(who, fmt.Sprintf("%s sets %s as well", contender.GetManager(), strings.Join(contender.GetFields(), ", ")))
	}
	if len(who) == 0 {
		who = append(who, "somebody keeps deleting it")
	}
	return fmt.Sprintf("%s; put right %d time(s)%s", strings.Join(who, ", "), c.GetHeals(), since(c.GetSince()))
}

func since(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return " since " + t.AsTime().UTC().Format(time.RFC3339)
}
