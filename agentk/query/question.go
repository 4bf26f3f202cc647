package query

import (
	"math/rand/v2"
	"regexp"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
)

// question is a Query that has been read.
type question struct {
	gvr schema.GroupVersionResource
	// form of what is answered.
	form objects.Form
	// view is the form of the View that answers.
	view objects.Form
	// joined: rows of a table are selected by the whole objects.
	joined bool
	filter filter
	// hash tells this question's tokens from those of others.
	hash uint32
	// asked tells this asking of it from all others.
	asked uint64
}

// filter says which objects are wanted.
type filter struct {
	// namespace; empty: all.
	namespace string
	// labels; nil: whatever they are.
	labels labels.Selector
	fields []requirement
}

// matches wants an object with its whole JSON where fields are deep.
func (f *filter) matches(o *objects.Object) bool {
	if f.namespace != "" && o.Namespace != f.namespace {
		return false
	}
	if f.labels != nil && !f.labels.Matches(o.Labels) {
		return false
	}
	for i := range f.fields {
		if !f.fields[i].matches(o) {
			return false
		}
	}
	return true
}

// questionOf reads a Query. Its error has a gRPC status.
func questionOf(q *clusterstate.Query) (*question, error) {
	gvr, err := resourceOf(q.GetResource())
	if err != nil {
		return nil, err
	}
	form, err := formOf(q.GetShape())
	if err != nil {
		return nil, err
	}
	out := &question{gvr: gvr, form: form, view: form, filter: filter{namespace: q.GetNamespace()}, hash: hashOf(q), asked: rand.Uint64()} //nolint:gosec // keeps no secret
	if text := q.GetLabelSelector(); text != "" {
		selector, err := labels.Parse(text)
		if err != nil {
			return nil, invalid("label_selector %q cannot be read: %v", text, err)
		}
		if !selector.Empty() {
			out.filter.labels = selector
		}
	}
	fields, deep, err := requirementsOf(q.GetFieldSelector())
	if err != nil {
		return nil, err
	}
	out.filter.fields = fields
	if deep == "" {
		return out, nil
	}
	switch form {
	case objects.Table:
		out.joined = true
	case objects.Metadata:
		if gvr.Group == "" && (gvr.Resource == "secrets" || gvr.Resource == "configmaps") {
			return nil, invalid("field_selector: %q is not known where only metadata of %s is asked for: select by metadata.name and metadata.namespace, or ask for objects",
				deep, gvr.Resource)
		}
		out.view = objects.Whole
	}
	return out, nil
}

var (
	groupPattern    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	versionPattern  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	resourcePattern = versionPattern
)

// resourceOf checks the name of a resource: it becomes a part of a path.
func resourceOf(r *clusterstate.Resource) (schema.GroupVersionResource, error) {
	gvr := schema.GroupVersionResource{Group: r.GetGroup(), Version: r.GetVersion(), Resource: r.GetResource()}
	switch {
	case gvr.Resource == "":
		return gvr, invalid(`resource is empty: name it as URLs of the Kubernetes API do, for example "deployments" of the group "apps"`)
	case !resourcePattern.MatchString(gvr.Resource):
		return gvr, invalid(`%q is no resource: write the plural in lower case, for example "deployments"; subresources cannot be asked for`, gvr.Resource)
	case gvr.Group != "" && !groupPattern.MatchString(gvr.Group):
		return gvr, invalid(`%q is no group of resources: write for example "apps", without a version`, gvr.Group)
	case gvr.Version != "" && !versionPattern.MatchString(gvr.Version):
		return gvr, invalid(`%q is no version of a group: write for example "v1"`, gvr.Version)
	}
	return gvr, nil
}

func formOf(shape clusterstate.Shape) (objects.Form, error) {
	switch shape {
	case clusterstate.Shape_SHAPE_UNSPECIFIED, clusterstate.Shape_SHAPE_OBJECT:
		return objects.Whole, nil
	case clusterstate.Shape_SHAPE_METADATA:
		return objects.Metadata, nil
	case clusterstate.Shape_SHAPE_TABLE:
		return objects.Table, nil
	default:
		return 0, invalid("shape %d is not known to this agentk: ask for an object, its metadata or a table", shape)
	}
}
