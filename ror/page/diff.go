package page

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/registry"
)

// diffBody is the form that asks for a comparison, and what came of it.
type diffBody struct {
	Agent    string
	AgentURL string
	Projects []string
	// As the form was filled in.
	Project, Kind, Name string
	Kinds               []string
	// Result is nil before the form is sent.
	Result *diffView
}

type diffView struct {
	Commit      string
	Summary     string
	Errors      []fileError
	Differences []differenceView
	Hidden      int
}

// differenceView is what would become of one object.
type differenceView struct {
	Kind, Name string
	Action     badge
	Message    string
	Source     string
	Fields     []fieldView
}

type fieldView struct {
	Path          string
	Before, After valueView
}

// valueView is a value before or after. A masked one has no text.
type valueView struct {
	Text    string
	Masked  bool
	Changed bool
}

// kinds of ref, as the form names them. The first is what the project follows.
var kinds = []string{"what it follows", "branch", "tag", "commit"}

// diffPage serves <agent>/sync_status/diff: the form, and, when it is sent, what the
// commit would do.
func (s *Server) diffPage(w http.ResponseWriter, v visit, agent registry.Agent) error {
	body := diffBody{
		Agent: agent.Name, AgentURL: agentPath(agent), Kinds: kinds,
		Project: v.FormValue("manifest_project"), Kind: v.FormValue("kind"), Name: strings.TrimSpace(v.FormValue("name")),
	}
	statuses, err := s.registry.Statuses(v.Context(), agent.ID, "", false)
	if err != nil {
		return err
	}
	for _, p := range statuses {
		body.Projects = append(body.Projects, p.GetProjectId())
	}
	page := v.page("What would change", &body)
	status := http.StatusOK
	if v.Method == http.MethodPost {
		if body.Result, err = s.compare(v, agent, body); err != nil {
			var n *notice
			if !errors.As(toNotice(err, ""), &n) {
				return err
			}
			status, page.Error = n.status, n.text
		}
	}
	s.render(w, status, "diff", page)
	return nil
}

func (s *Server) compare(v visit, agent registry.Agent, form diffBody) (*diffView, error) {
	var ref control.Ref
	into := map[string]*string{"branch": &ref.Branch, "tag": &ref.Tag, "commit": &ref.Commit}[form.Kind]
	switch {
	case into != nil && form.Name == "":
		return nil, &notice{status: http.StatusBadRequest, text: "Name the " + form.Kind + "."}
	case into != nil:
		*into = form.Name
	case form.Name != "":
		return nil, &notice{status: http.StatusBadRequest, text: "Say whether " + form.Name + " is a branch, a tag or a commit."}
	}
	res, err := s.control.Diff(v.Context(), control.Target{Agent: agent, Project: form.Project, By: v.user}, ref)
	if err != nil {
		return nil, err
	}
	result := &diffView{Commit: res.GetCommitId(), Summary: summary(res.GetDifferences())}
	for _, e := range res.GetErrors() {
		result.Errors = append(result.Errors, toFileError(e))
	}
	for _, d := range res.GetDifferences() {
		switch {
		case d.GetAction() == syncstatus.Action_ACTION_UNCHANGED:
		case len(result.Differences) == maxObjects:
			result.Hidden++
		default:
			result.Differences = append(result.Differences, toDifferenceView(d))
		}
	}
	return result, nil
}

func toDifferenceView(d *syncstatus.Difference) differenceView {
	v := differenceView{
		Kind: kindOf(d.GetId()), Name: nameOf(d.GetId()), Message: d.GetMessage(),
		Action: differenceBadge(d.GetAction()), Source: place(d.GetSourcePath(), d.GetSourceLine()),
	}
	for _, f := range d.GetFields() {
		v.Fields = append(v.Fields, fieldView{Path: f.GetPath(), Before: toValueView(f.GetBefore()), After: toValueView(f.GetAfter())})
	}
	return v
}

// toValueView tells what is masked from what says so.
func toValueView(json string) valueView {
	switch strings.Trim(json, `"`) {
	case "(masked)":
		return valueView{Masked: true}
	case "(masked, changed)":
		return valueView{Masked: true, Changed: true}
	}
	return valueView{Text: json}
}

// would is what a commit would do to an object, by what a sync would say it did.
var would = []struct {
	action      syncstatus.Action
	label, what string
	class       string
}{
	{syncstatus.Action_ACTION_CREATED, "Create", "would be created", "good"},
	{syncstatus.Action_ACTION_CONFIGURED, "Change", "would be changed", "busy"},
	{syncstatus.Action_ACTION_PRUNED, "Delete", "would be deleted", "bad"},
	{syncstatus.Action_ACTION_FAILED, "Refused", "would be refused", "bad"},
	{syncstatus.Action_ACTION_SKIPPED, "Leave alone", "would be left alone", "warn"},
	{syncstatus.Action_ACTION_UNCHANGED, "Unchanged", "unchanged", ""},
}

func differenceBadge(a syncstatus.Action) badge {
	for _, w := range would {
		if w.action == a {
			return badge{Label: w.label, Class: w.class}
		}
	}
	return actionBadge(a)
}

// summary counts what a commit would do.
func summary(differences []*syncstatus.Difference) string {
	counts := make(map[syncstatus.Action]int)
	for _, d := range differences {
		counts[d.GetAction()]++
	}
	var parts []string
	for _, w := range would {
		if n := counts[w.action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, w.what))
		}
	}
	if len(parts) == 0 {
		return "There is no object to compare."
	}
	return sentence(strings.Join(parts, ", "))
}
