package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
)

// contest says the engine's words in the protocol's; nil: there is none.
func contest(c *gitops.Contest) *syncstatus.Contest {
	if c == nil {
		return nil
	}
	out := &syncstatus.Contest{Heals: uint32(max(0, c.Heals)), Since: timestamp(c.Since)}
	for _, contender := range c.Contenders {
		fields := make([]string, len(contender.Fields))
		for i, field := range contender.Fields {
			fields[i] = Clip(field)
		}
		out.Contenders = append(out.Contenders, &syncstatus.Contender{Manager: Clip(contender.Manager), Fields: fields})
	}
	return out
}

// contestsLocked says of each object that is fought over with whom and about what, in
// the order of the objects.
func (r *Reporter) contestsLocked() []string {
	if r.contested == 0 {
		return nil
	}
	var out []string
	for _, e := range r.objects {
		if c := e.status.Contest; c != nil {
			out = append(out, describe(e.status.ID)+" ("+opponents(c)+")")
		}
	}
	slices.Sort(out)
	return out
}

// opponents of a contest and what it is about.
func opponents(c *gitops.Contest) string {
	if len(c.Contenders) == 0 {
		return fmt.Sprintf("changed or deleted by somebody %d times", c.Heals)
	}
	parts := make([]string, len(c.Contenders))
	for i, contender := range c.Contenders {
		fields := contender.Fields[:min(len(contender.Fields), namedObjects)]
		parts[i] = contender.Manager + " sets " + strings.Join(fields, ", ")
	}
	return strings.Join(parts, "; ")
}
