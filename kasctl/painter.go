package kasctl

import (
	"fmt"
	"io"
	"strings"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// The colours of a terminal.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	plain  = "\x1b[0m"
)

// valueWidth is where a value is cut, in characters.
const valueWidth = 300

// painter writes a comparison in the way of a unified diff.
type painter struct {
	out     io.Writer
	colored bool
	wide    bool
	err     error
}

// line writes one line; others' text does not reach the terminal raw.
func (p *painter) line(color, text string) {
	if p.err != nil {
		return
	}
	text = oneLine(text)
	if p.colored && color != "" {
		text = color + text + plain
	}
	p.err = writeLine(p.out, text)
}

// marks of what a commit would do to an object, in the order in which they are summed
// up.
var marks = []struct {
	action      syncstatus.Action
	mark, color string
	what        string
}{
	{syncstatus.Action_ACTION_CREATED, "+", green, "to create"},
	{syncstatus.Action_ACTION_CONFIGURED, "~", yellow, "to change"},
	{syncstatus.Action_ACTION_PRUNED, "-", red, "to delete"},
	{syncstatus.Action_ACTION_FAILED, "!", red, "refused"},
	{syncstatus.Action_ACTION_SKIPPED, "?", yellow, "left alone"},
	{syncstatus.Action_ACTION_UNCHANGED, "=", "", "unchanged"},
}

func (p *painter) write(t *target, diff *railsrpc.DiffResponse) error {
	p.line("", fmt.Sprintf("%s, commit %s:", t.fullName(), short(diff.GetCommitId())))
	for _, e := range diff.GetErrors() {
		p.line(red, "! "+fileError(e))
	}
	counts := make(map[syncstatus.Action]int)
	for _, d := range diff.GetDifferences() {
		counts[d.GetAction()]++
		if d.GetAction() != syncstatus.Action_ACTION_UNCHANGED || d.GetMessage() != "" {
			p.object(d)
		}
	}
	var sum []string
	for _, m := range marks {
		if n := counts[m.action]; n > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", n, m.what))
		}
	}
	if len(sum) == 0 {
		sum = append(sum, "no objects")
	}
	p.line("", strings.Join(sum, ", "))
	return p.err
}

func (p *painter) object(d *syncstatus.Difference) {
	mark, color := "?", ""
	for _, m := range marks {
		if m.action == d.GetAction() {
			mark, color = m.mark, m.color
		}
	}
	head := fmt.Sprintf("%s %s %s", mark, kindName(d.GetId()), objectName(d.GetId()))
	if place := sourceOf(d); place != "" {
		head += " (" + place + ")"
	}
	if d.GetMessage() != "" {
		head += ": " + d.GetMessage()
	}
	p.line(color, head)
	for _, f := range d.GetFields() {
		p.line(cyan, "@@ "+f.GetPath()+" @@")
		p.value(red, "-", f.GetBefore())
		p.value(green, "+", f.GetAfter())
	}
}

// value writes one side of a field, which is empty where the field is not there.
func (p *painter) value(color, mark, json string) {
	if json == "" {
		return
	}
	if !p.wide {
		json = clip(json, valueWidth)
	}
	p.line(color, mark+json)
}
