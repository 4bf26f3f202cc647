package kasctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// queryTimeout of a question about a cluster: the agent may have to read all objects
	// of a resource first, and RoR gives up after 30 s.
	queryTimeout = 45 * time.Second
	// objectsAtOnce is how many whole objects are asked for at once.
	objectsAtOnce = 500
)

// clusterList is what RoR answers about objects in a cluster.
type clusterList struct {
	Source    clusterSource   `json:"source"`
	Columns   []clusterColumn `json:"columns"`
	Items     []clusterItem   `json:"items"`
	Continue  string          `json:"continue"`
	Remaining uint64          `json:"remaining"`
}

type clusterSource struct {
	CurrentAt  time.Time `json:"current_at"`
	Kind       string    `json:"kind"`
	Namespaced bool      `json:"namespaced"`
	Redacted   bool      `json:"redacted"`
}

type clusterColumn struct {
	Name     string `json:"name"`
	Priority int32  `json:"priority"`
}

type clusterItem struct {
	Namespace       string          `json:"namespace"`
	Name            string          `json:"name"`
	ResourceVersion string          `json:"resource_version"`
	Cells           []string        `json:"cells"`
	Object          json.RawMessage `json:"object"`
}

// query of a list or watch.
func (g *getOptions) query() url.Values {
	query := url.Values{"shape": {g.shape()}}
	for name, value := range map[string]string{
		"group": g.resource.Group, "version": g.resource.Version, "namespace": g.namespace,
		"label_selector": g.selector, "field_selector": g.fieldSelector,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query
}

func (g *getOptions) shape() string {
	if g.output == formatJSON || g.output == formatYAML {
		return "object"
	}
	return "table"
}

func (g *getOptions) path(a *agent, more ...string) []string {
	return append([]string{
		"projects", strconv.FormatInt(a.ConfigProject.ID, 10), "cluster_agents", strconv.FormatInt(a.ID, 10),
		"cluster_state", g.resource.Resource,
	}, more...)
}

// listObjects lists what the options ask for: whole objects in several steps, because
// they may be many MiB.
func (c *client) listObjects(ctx context.Context, a *agent, g *getOptions) (*clusterList, error) {
	query := g.query()
	if g.shape() == "object" {
		query.Set("limit", strconv.Itoa(objectsAtOnce))
	}
	all := &clusterList{}
	for {
		part := clusterList{}
		if err := c.askCluster(ctx, &part, query, g.path(a)...); err != nil {
			return nil, err
		}
		part.Items = append(all.Items, part.Items...)
		all = &part
		if part.Continue == "" {
			return all, nil
		}
		query.Set("continue", part.Continue)
	}
}

// getObject is a list of one.
func (c *client) getObject(ctx context.Context, a *agent, g *getOptions) (*clusterList, error) {
	var one struct {
		clusterList
		Item clusterItem `json:"item"`
	}
	if err := c.askCluster(ctx, &one, g.query(), g.path(a, g.name)...); err != nil {
		return nil, err
	}
	one.Items = []clusterItem{one.Item}
	return &one.clusterList, nil
}

// askCluster asks RoR for what it asks an agent. What the agent says of it is a
// *refusedError, also where it may pass.
func (c *client) askCluster(ctx context.Context, into any, query url.Values, path ...string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	body, err := c.do(ctx, http.MethodGet, query, nil, path)
	if err != nil {
		return refusal(err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("answer about the cluster: %w", err)
	}
	return nil
}

// refusal picks what the agent says from what RoR answers, as "404 Not Found - …".
func refusal(err error) error {
	var answered *answeredError
	if !errors.As(err, &answered) {
		return err
	}
	said, found := strings.CutPrefix(answered.said, fmt.Sprintf("%d %s - ", answered.code, http.StatusText(answered.code)))
	if !found && answered.code != http.StatusBadRequest {
		return err
	}
	refused := &refusedError{said, answered.code}
	if errors.As(err, &passingError{}) {
		return passingError{refused}
	}
	return refused
}
