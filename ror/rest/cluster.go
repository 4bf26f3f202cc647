package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/clusters"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
	"github.com/kas-agentk/kas/ror/stream"
)

// Clusters knows what is in clusters.
type Clusters interface {
	Get(context.Context, registry.Agent, *clusterstate.GetRequest) (*clusterstate.GetResponse, error)
	List(context.Context, registry.Agent, *clusterstate.ListRequest) (*clusterstate.ListResponse, error)
	Watch(context.Context, registry.Agent, *clusterstate.WatchRequest, func(*clusterstate.WatchResponse) error) error
	Fleet(context.Context, []registry.Agent, *clusterstate.ListRequest) ([]clusters.Answer, error)
	Diagnose(context.Context, registry.Agent, *railsrpc.AgentTokens) (*railsrpc.DiagnoseResponse, error)
}

// listJSON answers GET cluster_state/<resource>. Source and columns are the protobuf
// JSON, with original field names, of the messages of api/clusterstate.
type listJSON struct {
	Source  json.RawMessage   `json:"source"`
	Columns []json.RawMessage `json:"columns,omitempty"`
	Items   []itemJSON        `json:"items"`
	// Continue, where not empty, is the parameter that goes on after the items;
	// Remaining is how many are left.
	Continue  string `json:"continue"`
	Remaining uint64 `json:"remaining"`
}

// getJSON answers GET cluster_state/<resource>/<name>.
type getJSON struct {
	Source  json.RawMessage   `json:"source"`
	Columns []json.RawMessage `json:"columns,omitempty"`
	Item    itemJSON          `json:"item"`
}

// itemJSON is one object.
type itemJSON struct {
	Namespace       string   `json:"namespace,omitempty"`
	Name            string   `json:"name"`
	UID             string   `json:"uid"`
	ResourceVersion string   `json:"resource_version"`
	CreatedAt       string   `json:"created_at"`
	Cells           []string `json:"cells,omitempty"`
	// Object is the object itself, or its metadata.
	Object json.RawMessage `json:"object,omitempty"`
}

func toItem(item *clusterstate.Item) itemJSON {
	return itemJSON{
		Namespace: item.GetNamespace(), Name: item.GetName(), UID: item.GetUid(), ResourceVersion: item.GetResourceVersion(),
		CreatedAt: timestamp(time.Unix(item.GetCreated(), 0)), Cells: item.GetCells(), Object: item.GetJson(),
	}
}

func toList(res *clusterstate.ListResponse) (listJSON, error) {
	answer := listJSON{Items: make([]itemJSON, 0, len(res.GetItems())), Continue: res.GetContinue(), Remaining: res.GetRemaining()}
	var err error
	if answer.Source, answer.Columns, err = toHead(res.GetSource(), res.GetColumns()); err != nil {
		return listJSON{}, err
	}
	for _, item := range res.GetItems() {
		answer.Items = append(answer.Items, toItem(item))
	}
	return answer, nil
}

// toHead is what precedes items. A watch says it once.
func toHead(source *clusterstate.Source, columns []*clusterstate.Column) (json.RawMessage, []json.RawMessage, error) {
	if source == nil {
		return nil, nil, nil
	}
	head, err := toJSON(source)
	if err != nil {
		return nil, nil, err
	}
	list, err := toJSONs(columns)
	return head, list, err
}

// getObject answers GET cluster_state/<resource>/<name>.
func (s *Server) getObject(w http.ResponseWriter, c call, a registry.Agent) error {
	q, err := queryOf(c)
	if err != nil {
		return err
	}
	res, err := s.clusters.Get(c.Context(), a, &clusterstate.GetRequest{
		Resource: q.GetResource(), Namespace: q.GetNamespace(), Name: c.PathValue("name"), Shape: q.GetShape(),
	})
	if err != nil {
		return err
	}
	answer := getJSON{Item: toItem(res.GetItem())}
	if answer.Source, answer.Columns, err = toHead(res.GetSource(), res.GetColumns()); err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusOK, answer)
	return nil
}

// listObjects answers GET cluster_state/<resource>.
func (s *Server) listObjects(w http.ResponseWriter, c call, a registry.Agent) error {
	watch, err := isWatch(c.URL.Query())
	if err != nil {
		return err
	}
	if watch {
		return s.watchObjects(w, c, a)
	}
	req, err := listRequest(c)
	if err != nil {
		return err
	}
	res, err := s.clusters.List(c.Context(), a, req)
	if err != nil {
		return err
	}
	answer, err := toList(res)
	if err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusOK, answer)
	return nil
}

// changesJSON is one line of a watch, as a clusterstate.WatchResponse.
type changesJSON struct {
	Source  json.RawMessage   `json:"source,omitempty"`
	Columns []json.RawMessage `json:"columns,omitempty"`
	Reset   bool              `json:"reset,omitempty"`
	Events  []eventJSON       `json:"events"`
	Synced  bool              `json:"synced,omitempty"`
	Cursor  string            `json:"cursor"`
}

type eventJSON struct {
	// Type is ADDED, MODIFIED or DELETED.
	Type string   `json:"type"`
	Item itemJSON `json:"item"`
}

// brokenJSON is the last line of a watch that has broken.
type brokenJSON struct {
	Error errorJSON `json:"error"`
}

type errorJSON struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

func toErrorJSON(e *kasapi.Error) errorJSON { return errorJSON{e.HTTPStatus(), e.Message} }

// watchObjects answers with a line of JSON for each part of a watch. Empty lines mean
// nothing. It ends when the client leaves, when it breaks, and after a while, so that
// the token and the rights of the user are looked at again: clients go on by the cursor.
func (s *Server) watchObjects(w http.ResponseWriter, c call, a registry.Agent) error {
	q, err := queryOf(c)
	if err != nil {
		return err
	}
	req := &clusterstate.WatchRequest{Query: q, Cursor: c.URL.Query().Get("cursor")}
	begun, err := stream.Serve(w, c.Request, stream.Config{ContentType: "application/x-ndjson", Beat: []byte("\n")},
		func(ctx context.Context, send func([]byte) error) error { return s.sendChanges(ctx, a, req, send) })
	if begun && err != nil { // too late for another answer
		s.cfg.Log.Error("watch failed", zap.String("path", c.URL.Path), zap.Error(err))
		return nil
	}
	return err
}

func (s *Server) sendChanges(ctx context.Context, a registry.Agent, req *clusterstate.WatchRequest, send func([]byte) error) error {
	begun := false
	err := s.clusters.Watch(ctx, a, req, func(part *clusterstate.WatchResponse) error {
		line, err := toLine(part)
		if err != nil {
			return err
		}
		begun = true
		return send(line)
	})
	var said *kasapi.Error
	if !begun || ctx.Err() != nil || !errors.As(err, &said) {
		return err
	}
	line, err := toBytes(brokenJSON{toErrorJSON(said)})
	if err != nil {
		return err
	}
	return send(line)
}

func toLine(part *clusterstate.WatchResponse) ([]byte, error) {
	line := changesJSON{
		Reset: part.GetReset_(), Synced: part.GetSynced(), Cursor: part.GetCursor(), Events: make([]eventJSON, 0, len(part.GetEvents())),
	}
	var err error
	if line.Source, line.Columns, err = toHead(part.GetSource(), part.GetColumns()); err != nil {
		return nil, err
	}
	for _, e := range part.GetEvents() {
		line.Events = append(line.Events, eventJSON{strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_"), toItem(e.GetItem())})
	}
	return toBytes(line)
}

func toBytes(line any) ([]byte, error) {
	data, err := json.Marshal(line)
	if err != nil {
		return nil, fmt.Errorf("encode a line of a watch: %w", err)
	}
	return append(data, '\n'), nil
}
