package page

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/resources"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
	"github.com/kas-agentk/kas/ror/stream"
)

// Clusters knows what is in clusters.
type Clusters interface {
	Get(context.Context, registry.Agent, *clusterstate.GetRequest) (*clusterstate.GetResponse, error)
	List(context.Context, registry.Agent, *clusterstate.ListRequest) (*clusterstate.ListResponse, error)
	Watch(context.Context, registry.Agent, *clusterstate.WatchRequest, func(*clusterstate.WatchResponse) error) error
}

// clusterForm is what a visitor wants to see of a cluster.
type clusterForm struct {
	Resource, Namespace, Selector string
	// Wide has the further columns, too.
	Wide bool
	// Continue goes on after a page before.
	Continue string
}

func readClusterForm(v visit) clusterForm {
	query := v.URL.Query()
	f := clusterForm{
		Resource: strings.TrimSpace(query.Get("resource")), Namespace: strings.TrimSpace(query.Get("namespace")),
		Selector: strings.TrimSpace(query.Get("selector")), Wide: query.Get("wide") != "", Continue: query.Get("continue"),
	}
	if f.Resource == "" {
		f.Resource = "pods"
	}
	return f
}

// query is the form as a link has it.
func (f *clusterForm) query() string {
	values := url.Values{"resource": {f.Resource}}
	for name, value := range map[string]string{"namespace": f.Namespace, "selector": f.Selector, "continue": f.Continue} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if f.Wide {
		values.Set("wide", "yes")
	}
	return "?" + values.Encode()
}

func (f *clusterForm) toQuery() (*clusterstate.Query, resources.Name, error) {
	name, err := resources.Parse(f.Resource)
	if err != nil {
		return nil, name, &notice{status: http.StatusBadRequest, text: sentence(err.Error())}
	}
	return &clusterstate.Query{
		Resource:  &clusterstate.Resource{Group: name.Group, Version: name.Version, Resource: name.Resource},
		Namespace: f.Namespace, LabelSelector: f.Selector, Shape: clusterstate.Shape_SHAPE_TABLE,
	}, name, nil
}

type clusterBody struct {
	Agent    string
	AgentURL string
	URL      string
	Form     clusterForm
	Common   []string
	// ChangesURL tells of changes as they happen. Empty: there is nothing to change.
	ChangesURL string
	// Trouble is why there is no Table.
	Trouble string
	Table   *tableView
}

func clusterPath(a registry.Agent) string { return agentPath(a) + "/cluster" }

// clusterPage serves <agent>/cluster: a table of what is in the cluster. Whatever the
// cluster says, the page is whole and its status 200, so that it goes on renewing itself.
func (s *Server) clusterPage(w http.ResponseWriter, v visit, agent registry.Agent) error {
	form := readClusterForm(v)
	body := clusterBody{
		Agent: agent.Name, AgentURL: agentPath(agent), URL: clusterPath(agent), Form: form, Common: resources.Common(),
	}
	var err error
	if body.Table, err = s.lookInto(v, agent, form); err == nil {
		body.ChangesURL = clusterPath(agent) + "/changes" + form.query()
	} else if body.Trouble = toTrouble(err); body.Trouble == "" {
		return err
	}
	s.render(w, http.StatusOK, "cluster", v.live("Cluster of "+agent.Name, body))
	return nil
}

func (s *Server) lookInto(v visit, agent registry.Agent, form clusterForm) (*tableView, error) {
	query, name, err := form.toQuery()
	if err != nil {
		return nil, err
	}
	list, err := s.clusters.List(v.Context(), agent, &clusterstate.ListRequest{Query: query, Limit: maxObjects, Continue: form.Continue})
	if err != nil {
		return nil, err
	}
	return toTableView(list, form, name, clusterPath(agent), s.cfg.Clock.Now()), nil
}

// toTrouble words why there is nothing to see; empty where it is this server's fault.
func toTrouble(err error) string {
	var said *kasapi.Error
	var n *notice
	switch {
	case errors.As(err, &n):
		return n.text
	case !errors.As(err, &said):
		return ""
	}
	if said.Code == codes.Unavailable || said.Code == codes.DeadlineExceeded {
		return sentence(said.Message) + " What is in the cluster is not known until it answers; this page asks again by itself."
	}
	return sentence(said.Message)
}

// IsStream says whether a request asks for an answer that goes on and on.
func IsStream(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/-/cluster_agents/") && strings.HasSuffix(r.URL.Path, "/cluster/changes")
}

// Lines of an event stream.
var (
	eventBeat    = []byte(": nothing new\n\n")
	eventChanged = []byte("data: changed\n\n")
)

// clusterChanges serves <agent>/cluster/changes: an event stream that says whenever what
// the page shows has changed.
func (s *Server) clusterChanges(w http.ResponseWriter, v visit, agent registry.Agent) error {
	form := readClusterForm(v)
	query, _, err := form.toQuery()
	if err != nil {
		return err
	}
	begun, err := stream.Serve(w, v.Request, stream.Config{ContentType: "text/event-stream", Beat: eventBeat},
		func(ctx context.Context, send func([]byte) error) error {
			known := false
			return s.clusters.Watch(ctx, agent, &clusterstate.WatchRequest{Query: query}, func(part *clusterstate.WatchResponse) error {
				piece := eventBeat
				if known && len(part.GetEvents()) > 0 || part.GetSynced() {
					piece = eventChanged // the page was made before the watch began
				}
				known = known || part.GetSynced()
				return send(piece)
			})
		})
	var said *kasapi.Error
	switch {
	case begun:
		return nil // the browser comes again, and the page says what is wrong
	case errors.As(err, &said):
		return &notice{status: said.HTTPStatus(), text: toTrouble(err), back: clusterPath(agent) + form.query()}
	}
	return err
}
