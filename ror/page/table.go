package page

import (
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/resources"
)

// staleAfter is how old news of a cluster must be to be worth a warning: of a quiet
// resource the API server lets hear once a minute.
const staleAfter = 2 * time.Minute

// tableView is a table of objects as the agent answers it.
type tableView struct {
	// Summary says how many there are of what.
	Summary string
	// AsOf says how fresh that is; Stale is a warning that it is not. Empty: it is.
	AsOf, Stale string
	// Namespaced tables have a column for it.
	Namespaced bool
	Columns    []columnView
	Rows       []rowView
	// NextURL goes on where this table ends; empty: it is all.
	NextURL string
	// Secrets are shown without their values.
	Secrets bool
}

type columnView struct {
	Name, Description string
}

type rowView struct {
	// ID tells the row from others, also when it is shown again.
	ID                      string
	Namespace, NamespaceURL string
	Cells                   []string
	// The cell at Link leads to the object.
	Link int
	URL  string
}

func toTableView(list *clusterstate.ListResponse, form clusterForm, name resources.Name, path string, now time.Time) *tableView {
	source := list.GetSource()
	t := &tableView{
		Summary: summarize(list, form, name), Namespaced: source.GetNamespaced() && form.Namespace == "",
		Secrets: name.Resource == "secrets" && name.Group == "",
	}
	if at := source.GetCurrentAt(); at != nil {
		age := now.Sub(at.AsTime())
		t.AsOf = "As of " + ago(age)
		if age > staleAfter {
			t.Stale = "The agent last heard of the API server " + ago(age) + ": what has changed since may be missing."
		}
	}
	var shown []int
	for i, column := range list.GetColumns() {
		if column.GetPriority() == 0 || form.Wide {
			shown = append(shown, i)
			t.Columns = append(t.Columns, columnView{column.GetName(), column.GetDescription()})
		}
	}
	link := slices.IndexFunc(t.Columns, func(c columnView) bool { return c.Name == "Name" })
	for _, item := range list.GetItems() {
		inside := form
		inside.Namespace, inside.Continue = item.GetNamespace(), ""
		row := rowView{
			ID: item.GetNamespace() + "/" + item.GetName(), Namespace: item.GetNamespace(), NamespaceURL: path + inside.query(),
			Cells: make([]string, len(shown)), Link: max(link, 0), URL: objectPath(path, form.Resource, item),
		}
		for to, from := range shown {
			if from < len(item.GetCells()) {
				row.Cells[to] = item.GetCells()[from]
			}
		}
		t.Rows = append(t.Rows, row)
	}
	if form.Continue = list.GetContinue(); form.Continue != "" {
		t.NextURL = path + form.query()
	}
	return t
}

func objectPath(path, resource string, item *clusterstate.Item) string {
	values := url.Values{"resource": {resource}, "name": {item.GetName()}}
	if item.GetNamespace() != "" {
		values.Set("namespace", item.GetNamespace())
	}
	return path + "/object?" + values.Encode()
}

// summarize says in words what a table has: "12 pods in namespace web".
func summarize(list *clusterstate.ListResponse, form clusterForm, name resources.Name) string {
	where := ""
	if form.Namespace != "" && list.GetSource().GetNamespaced() {
		where = " in namespace " + form.Namespace
	}
	if form.Selector != "" {
		where += " with " + form.Selector
	}
	n := len(list.GetItems())
	switch {
	case n == 0 && form.Continue == "":
		return "There are no " + name.Resource + where + "."
	case n == 1 && form.Continue == "" && list.GetContinue() == "":
		return "1 " + list.GetSource().GetKind() + where + "."
	case list.GetContinue() != "":
		return fmt.Sprintf("%d %s%s, and %d more after these.", n, name.Resource, where, list.GetRemaining())
	case form.Continue != "":
		return fmt.Sprintf("%d further %s%s.", n, name.Resource, where)
	}
	return fmt.Sprintf("%d %s%s.", n, name.Resource, where)
}

// ago is an age in words: "2 s ago". Clocks may differ: what is to come is now.
func ago(age time.Duration) string {
	switch {
	case age < time.Second:
		return "just now"
	case age < time.Minute:
		return fmt.Sprintf("%d s ago", int(age.Seconds()))
	case age < time.Hour:
		return fmt.Sprintf("%d min ago", int(age.Minutes()))
	case age < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(age.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(age.Hours()/24))
}
