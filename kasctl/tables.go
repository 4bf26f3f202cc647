package kasctl

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// writeAgents writes the table of agents.
func writeAgents(out io.Writer, agents []*agent) error {
	if len(agents) == 0 {
		return writeLine(out, "No agents.")
	}
	t := &table{}
	t.row("ID", "NAME", "CONFIG PROJECT", "STATE", "REPLICAS", "VERSION", "KUBERNETES", "NOTE")
	for _, a := range agents {
		t.row(strconv.FormatInt(a.ID, 10), a.Name, a.ConfigProject.PathWithNamespace, a.state(), strconv.Itoa(len(a.Connections)),
			versions(a, func(c connection) string { return c.Version }),
			versions(a, func(c connection) string { return c.KubernetesVersion }), a.KASError)
	}
	return t.write(out)
}

// versions lists the different versions of an agent's replicas.
func versions(a *agent, of func(connection) string) string {
	var all []string
	for _, c := range a.Connections {
		if v := of(c); v != "" && !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// writeStatuses writes the table of projects and below it what is wrong, and the
// objects if asked for. The status of one agent begins with the agent itself.
func writeStatuses(out io.Writer, statuses []*agentStatus, one, objects, wide bool) error {
	if one {
		if err := writeAgentHead(out, statuses[0]); err != nil {
			return err
		}
	}
	projects := &table{}
	projects.row("AGENT", "PROJECT", "REF", "STATE", "WANTED", "APPLIED", "OBJECTS", "FAILED", "UNHEALTHY")
	for _, s := range statuses {
		for _, p := range s.projects {
			c := p.GetCounts()
			projects.row(s.agent.fullName(), projectName(p), p.GetRef(), stateName(p.GetState()),
				short(p.GetWantedCommit()), short(p.GetAppliedCommit()),
				count(c.GetTotal()), count(c.GetFailed()), count(c.GetUnhealthy()))
		}
	}
	if len(projects.rows) == 1 {
		if err := writeLine(out, "No manifest projects."); err != nil {
			return err
		}
	} else if err := projects.write(out); err != nil {
		return err
	}
	for _, s := range statuses {
		if err := writeFaults(out, s, one); err != nil {
			return err
		}
	}
	if objects {
		return writeObjects(out, statuses, wide)
	}
	return nil
}

func writeAgentHead(out io.Writer, s *agentStatus) error {
	t := &table{}
	a := s.agent
	state := a.state()
	if n := len(a.Connections); n > 0 {
		state += fmt.Sprintf(", %d replica(s), agentk %s, Kubernetes %s", n,
			cmp.Or(versions(a, func(c connection) string { return c.Version }), "-"),
			cmp.Or(versions(a, func(c connection) string { return c.KubernetesVersion }), "-"))
	}
	if a.KASError != "" {
		state += " (" + a.KASError + ")"
	}
	t.row("Agent:", a.fullName())
	t.row("State:", state)
	t.row("Configuration:", cmp.Or(short(s.configuration.GetCommitId()), "none in force"))
	if e := s.configuration.GetError(); e.GetMessage() != "" {
		t.row("Error:", fileError(e))
	}
	if err := t.write(out); err != nil {
		return err
	}
	return writeLine(out, "")
}

// writeFaults writes an agent's messages and mistakes, none if there are none. A
// mistake in the configuration is part of the head where there is one.
func writeFaults(out io.Writer, s *agentStatus, headed bool) error {
	var lines []string
	if e := s.configuration.GetError(); e.GetMessage() != "" && !headed {
		lines = append(lines, fmt.Sprintf("%s: configuration: %s", s.agent.fullName(), fileError(e)))
	}
	for _, p := range s.projects {
		if m := p.GetMessage(); m != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", projectName(p), m))
		}
		lines = append(lines, guardLines(s.agent, p)...)
		for _, e := range p.GetErrors() {
			lines = append(lines, fmt.Sprintf("%s: %s", projectName(p), fileError(e)))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	for _, line := range append([]string{""}, lines...) {
		if err := writeLine(out, oneLine(line)); err != nil {
			return err
		}
	}
	return nil
}

// writeObjects writes the table of objects, what is wrong first.
func writeObjects(out io.Writer, statuses []*agentStatus, wide bool) error {
	t := &table{}
	t.row("PROJECT", "KIND", "NAMESPACE", "NAME", "ACTION", "HEALTH", "SOURCE", "MESSAGE")
	for _, s := range statuses {
		for _, p := range s.projects {
			objects := slices.Clone(p.GetObjects())
			slices.SortStableFunc(objects, compareObjects)
			for _, o := range objects {
				message := o.GetMessage()
				if !wide {
					message = clip(oneLine(message), cellWidth)
				}
				t.row(projectName(p), kindName(o.GetId()), o.GetId().GetNamespace(), o.GetId().GetName(),
					enumName(o.GetAction().String(), "ACTION_"), enumName(o.GetHealth().String(), "HEALTH_"), sourceOf(o), message)
			}
		}
	}
	if len(t.rows) == 1 {
		return nil
	}
	if err := writeLine(out, ""); err != nil {
		return err
	}
	return t.write(out)
}

func compareObjects(a, b *syncstatus.ObjectStatus) int {
	return cmp.Or(
		cmp.Compare(rank(a), rank(b)),
		strings.Compare(a.GetId().GetNamespace(), b.GetId().GetNamespace()),
		strings.Compare(kindName(a.GetId()), kindName(b.GetId())),
		strings.Compare(a.GetId().GetName(), b.GetId().GetName()),
	)
}

// rank orders objects by how much they want to be looked at.
func rank(o *syncstatus.ObjectStatus) int {
	switch {
	case o.GetAction() == syncstatus.Action_ACTION_FAILED:
		return 0
	case o.GetHealth() == syncstatus.Health_HEALTH_FAILED, o.GetContest() != nil:
		return 1
	case o.GetAction() == syncstatus.Action_ACTION_SKIPPED:
		return 2
	case o.GetHealth() != syncstatus.Health_HEALTH_CURRENT:
		return 3
	default:
		return 4
	}
}
