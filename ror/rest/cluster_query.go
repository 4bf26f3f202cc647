package rest

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/resources"
	"github.com/kas-agentk/kas/ror/jsonhttp"
)

// resourceOf is the resource that a path names, as people write it or as URLs of the
// Kubernetes API do, with group and version in the query.
func resourceOf(c call) (*clusterstate.Resource, error) {
	query := c.URL.Query()
	text := c.PathValue("resource")
	group, version := query.Get("group"), query.Get("version")
	if !strings.Contains(text, ".") && (group != "" || version != "") {
		text = resources.Name{Group: group, Version: version, Resource: text}.String()
	}
	name, err := resources.Parse(text)
	if err != nil {
		return nil, jsonhttp.BadRequest("resource is invalid: %v", err)
	}
	return &clusterstate.Resource{Group: name.Group, Version: name.Version, Resource: name.Resource}, nil
}

// shapes by their names in the query.
var shapes = map[string]clusterstate.Shape{
	"":         clusterstate.Shape_SHAPE_OBJECT,
	"object":   clusterstate.Shape_SHAPE_OBJECT,
	"metadata": clusterstate.Shape_SHAPE_METADATA,
	"table":    clusterstate.Shape_SHAPE_TABLE,
}

func shapeOf(query url.Values) (clusterstate.Shape, error) {
	shape, ok := shapes[query.Get("shape")]
	if !ok {
		return shape, jsonhttp.BadRequest("shape is invalid: want object, metadata or table")
	}
	return shape, nil
}

// queryOf is which objects are asked for: parameters namespace, label_selector,
// field_selector and shape.
func queryOf(c call) (*clusterstate.Query, error) {
	resource, err := resourceOf(c)
	if err != nil {
		return nil, err
	}
	query := c.URL.Query()
	shape, err := shapeOf(query)
	if err != nil {
		return nil, err
	}
	return &clusterstate.Query{
		Resource: resource, Namespace: query.Get("namespace"), Shape: shape,
		LabelSelector: query.Get("label_selector"), FieldSelector: query.Get("field_selector"),
	}, nil
}

// listRequest is queryOf with parameters limit and continue.
func listRequest(c call) (*clusterstate.ListRequest, error) {
	q, err := queryOf(c)
	if err != nil {
		return nil, err
	}
	req := &clusterstate.ListRequest{Query: q, Continue: c.URL.Query().Get("continue")}
	if v := c.URL.Query().Get("limit"); v != "" {
		limit, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return nil, jsonhttp.BadRequest("limit is invalid: want a number")
		}
		req.Limit = uint32(limit)
	}
	return req, nil
}

// isWatch says whether a list is to be a watch: parameter watch.
func isWatch(query url.Values) (bool, error) {
	v := query.Get("watch")
	if v == "" {
		return false, nil
	}
	watch, err := strconv.ParseBool(v)
	if err != nil {
		return false, jsonhttp.BadRequest("watch is invalid: want true or false")
	}
	return watch, nil
}
