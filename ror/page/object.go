package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/ror/registry"
)

// notShown stands where a Secret's value would.
const notShown = "(not shown)"

type objectBody struct {
	Agent, AgentURL string
	// BackURL is the table of the object's resource.
	BackURL  string
	Resource string
	Name     string
	AsOf     string
	// Trouble is why there is no YAML.
	Trouble string
	YAML    string
}

// objectPage serves <agent>/cluster/object: one object as YAML. As for clusterPage, it is
// whole whatever the cluster says.
func (s *Server) objectPage(w http.ResponseWriter, v visit, agent registry.Agent) error {
	form := readClusterForm(v)
	name := v.URL.Query().Get("name")
	if name == "" {
		return errNotFound
	}
	body := objectBody{
		Agent: agent.Name, AgentURL: agentPath(agent), BackURL: clusterPath(agent) + form.query(), Resource: form.Resource,
		Name: form.qualify(name),
	}
	query, _, err := form.toQuery()
	if err == nil {
		err = s.addObject(v, agent, query, name, &body)
	}
	if err != nil {
		if body.Trouble = toTrouble(err); body.Trouble == "" {
			return err
		}
	}
	s.render(w, http.StatusOK, "object", v.live(body.Name, body))
	return nil
}

// qualify is a name with its namespace: "web/shop".
func (f *clusterForm) qualify(name string) string {
	if f.Namespace == "" {
		return name
	}
	return f.Namespace + "/" + name
}

func (s *Server) addObject(v visit, agent registry.Agent, q *clusterstate.Query, name string, body *objectBody) error {
	res, err := s.clusters.Get(v.Context(), agent, &clusterstate.GetRequest{
		Resource: q.GetResource(), Namespace: q.GetNamespace(), Name: name, Shape: clusterstate.Shape_SHAPE_OBJECT,
	})
	if err != nil {
		return err
	}
	if at := res.GetSource().GetCurrentAt(); at != nil {
		body.AsOf = "As of " + ago(s.cfg.Clock.Now().Sub(at.AsTime()))
	}
	body.YAML, err = toYAML(res.GetItem().GetJson())
	return err
}

// lastApplied is an annotation in which kubectl keeps an object as it was applied.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func hideLastApplied(object map[string]any) {
	meta, _ := object["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	if _, found := annotations[lastApplied]; found {
		annotations[lastApplied] = notShown
	}
}

// toYAML shows an object without the values of a Secret, whatever the agent keeps.
func toYAML(data []byte) (string, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		return "", fmt.Errorf("object of a cluster: %w", err)
	}
	if object["kind"] == "Secret" {
		for _, field := range []string{"data", "stringData"} {
			values, _ := object[field].(map[string]any)
			for key := range values {
				values[key] = notShown
			}
		}
		hideLastApplied(object)
	}
	data, err := json.Marshal(object)
	if err != nil {
		return "", fmt.Errorf("object of a cluster: %w", err)
	}
	data, err = yaml.JSONToYAML(data)
	if err != nil {
		return "", fmt.Errorf("object of a cluster: %w", err)
	}
	return string(data), nil
}
