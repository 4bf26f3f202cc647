package kasctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// fleetAgent is one agent's answer of many.
type fleetAgent struct {
	clusterList
	agent
	Error *struct {
		Status  int    `json:"status"`
		Message string `json:"message"`
	} `json:"error"`
}

// runFleet asks all agents. It is an error that some did not answer, after all the
// others have been shown.
func (g *getOptions) runFleet(ctx context.Context, c *client, out io.Writer) error {
	query := g.query()
	if g.name != "" {
		query.Set("field_selector", "metadata.name="+g.name)
	}
	var answer struct {
		Agents []json.RawMessage `json:"agents"`
	}
	if err := c.askCluster(ctx, &answer, query, "cluster_state", g.resource.Resource); err != nil {
		return fmt.Errorf("get %s of all agents: %w", g.resource.Resource, err)
	}
	if len(answer.Agents) == 0 {
		return errNoAgents
	}
	fleet := make([]*fleetAgent, 0, len(answer.Agents))
	for _, raw := range answer.Agents {
		a := &fleetAgent{}
		if err := json.Unmarshal(raw, a); err != nil {
			return fmt.Errorf("answer about the clusters: %w", err)
		}
		fleet = append(fleet, a)
	}
	slices.SortStableFunc(fleet, func(x, y *fleetAgent) int { return strings.Compare(x.fullName(), y.fullName()) })
	if err := g.printFleet(out, answer.Agents, fleet); err != nil {
		return err
	}
	return g.blame(fleet)
}

// blame names the agents that did not answer.
func (g *getOptions) blame(fleet []*fleetAgent) error {
	silent, unknown := 0, false
	for _, a := range fleet {
		if a.Error != nil {
			silent++
			unknown = unknown || a.Error.Status == http.StatusNotFound
			fmt.Fprintf(g.errs, "%s: %s\n", oneLine(a.fullName()), oneLine(a.Error.Message))
		}
	}
	advice := ""
	if unknown && g.resource.Group == "" && !g.resource.Known() {
		advice = fmt.Sprintf(" (of a custom resource, name the group as well: %s.example.com)", g.resource.Resource)
	}
	if silent > 0 {
		return fmt.Errorf("%d of %d agents did not answer%s", silent, len(fleet), advice)
	}
	return nil
}

func (g *getOptions) printFleet(out io.Writer, raw []json.RawMessage, fleet []*fleetAgent) error {
	if g.output == formatJSON || g.output == formatYAML {
		return writeDocument(out, g.output, map[string]any{"agents": raw})
	}
	all := mergeFleet(fleet, g.namespace == "")
	if len(all.Items) == 0 {
		return g.sayNone()
	}
	if g.output == formatName {
		for _, item := range all.Items {
			if err := writeLine(out, oneLine(item.Cells[0])+" "+g.nameOf(all.Source.Kind, item)); err != nil {
				return err
			}
		}
		return nil
	}
	return g.newPrinter(out, &clusterSource{}, all.Columns).add(all.Items)
}

// mergeFleet puts answers together as a list whose first column names the agent, and the
// next one the namespace if there are several. Agents may have different columns.
func mergeFleet(fleet []*fleetAgent, namespaces bool) *clusterList {
	all := &clusterList{Columns: []clusterColumn{{Name: "Agent"}}}
	for _, a := range fleet {
		if a.Error == nil && a.Source.Kind != "" {
			all.Source = a.Source
		}
	}
	namespaces = namespaces && all.Source.Namespaced
	if namespaces {
		columnIndex(&all.Columns, clusterColumn{Name: "Namespace"})
	}
	for _, a := range fleet {
		if a.Error != nil {
			continue
		}
		places := make([]int, 0, len(a.Columns))
		for _, column := range a.Columns {
			places = append(places, columnIndex(&all.Columns, column))
		}
		for _, item := range a.Items {
			cells := make([]string, len(all.Columns))
			cells[0] = a.fullName()
			if namespaces {
				cells[1] = item.Namespace
			}
			for i, cell := range item.Cells[:min(len(item.Cells), len(places))] {
				cells[places[i]] = cell
			}
			item.Cells = cells
			all.Items = append(all.Items, item)
		}
	}
	return all
}
