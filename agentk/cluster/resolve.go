package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
)

var errVerbs = errors.New("the API server offers no list, watch and patch for it, so that it cannot be synced")

// Resolve implements gitops.Cluster.
func (c *Cluster) Resolve(ctx context.Context, kinds []schema.GroupVersionKind) (map[schema.GroupVersionKind]gitops.Kind, error) {
	c.recent.sweep()
	out := make(map[schema.GroupVersionKind]gitops.Kind, len(kinds))
	found := make(map[schema.GroupVersionKind]*meta.RESTMapping, len(kinds))
	for _, gvk := range kinds {
		mapping, err := c.resolver.resolve(ctx, gvk)
		if err = explain(err); err != nil {
			if stops(ctx, err) {
				return nil, err
			}
			out[gvk] = gitops.Kind{Err: err}
			continue
		}
		found[gvk] = mapping
	}
	failed := c.cfg.Cache.Ensure(ctx, c.learn(kinds, found))
	for gvk, mapping := range found {
		err := explain(failed[mapping.Resource.GroupResource()])
		switch {
		case stops(ctx, err):
			return nil, err
		case apierrors.IsNotFound(err):
			// It was served when it was looked up, and is not any more.
			c.resolver.forget(mapping.Resource.GroupVersion())
			err = fmt.Errorf("%w: %w", gitops.ErrNotServed, err)
		}
		out[gvk] = gitops.Kind{Namespaced: mapping.Scope.Name() == meta.RESTScopeNameNamespace, Err: err}
	}
	c.markGone(ctx, out)
	return out, nil
}

// stops says that an error is not that of one kind alone.
func stops(ctx context.Context, err error) bool {
	return err != nil && (errors.Is(err, gitops.ErrUnavailable) || apierrors.IsUnauthorized(err) || ctx.Err() != nil)
}

// learn notes which resource is which kind, and returns one mapping for each. What
// is cached of a resource is so in one version, whichever versions it is applied in.
func (c *Cluster) learn(kinds []schema.GroupVersionKind, found map[schema.GroupVersionKind]*meta.RESTMapping) []*meta.RESTMapping {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[schema.GroupResource]struct{}{}
	var mappings []*meta.RESTMapping
	for _, gvk := range kinds {
		m, ok := found[gvk]
		if !ok {
			continue
		}
		gk, gr := gvk.GroupKind(), m.Resource.GroupResource()
		c.resources[gk], c.kinds[gr] = gr, gk
		if _, ok := seen[gr]; !ok {
			seen[gr] = struct{}{}
			mappings = append(mappings, m)
		}
	}
	return mappings
}

// resolver finds out which resource serves a kind. It asks for one group and version
// at a time, when it is first needed and again where a kind is missing, so that a
// group that does not answer harms nobody else. A kind that lacks what it takes to be
// synced is asked for again each time.
type resolver struct {
	client rest.Interface

	mu sync.Mutex
	// served resources by kind, of the versions that were asked for.
	served map[schema.GroupVersion]map[string]serving
	// preferred versions by group, best first, of the groups that were asked for.
	preferred map[string][]string
}

func newResolver(client rest.Interface) *resolver {
	return &resolver{client: client, served: map[schema.GroupVersion]map[string]serving{}, preferred: map[string][]string{}}
}

// resolve returns an error of the API server, one that wraps gitops.ErrNotServed, or
// what kept the API server from being asked.
func (r *resolver) resolve(ctx context.Context, gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	if s, ok := r.known(gvk); ok && s.lacks(gvk) == nil {
		return s.mapping, nil
	}
	versions := []string{gvk.Version}
	if gvk.Version == "" {
		var err error
		if versions, err = r.versions(ctx, gvk.Group); err != nil {
			return nil, err
		}
	}
	for _, version := range versions {
		gv := schema.GroupVersion{Group: gvk.Group, Version: version}
		if err := r.fetch(ctx, gv); err != nil {
			return nil, err
		}
		if s, ok := r.known(gv.WithKind(gvk.Kind)); ok {
			return s.mapping, s.lacks(gvk)
		}
	}
	return nil, fmt.Errorf("%w: %s", gitops.ErrNotServed, gvk)
}

// serving is how a kind is served.
type serving struct {
	mapping *meta.RESTMapping
	verbs   []string
}

// lacks says what keeps objects of a kind from being synced, or, where no version is
// named, from being seen and removed. While a CRD is being deleted, for instance, its
// objects can be deleted and not changed.
func (s serving) lacks(gvk schema.GroupVersionKind) error {
	for _, verb := range []string{"list", "watch", "patch"} {
		if !slices.Contains(s.verbs, verb) && (verb != "patch" || gvk.Version != "") {
			return fmt.Errorf("kind %s: %w", gvk.Kind, errVerbs)
		}
	}
	return nil
}

// known looks up without asking.
func (r *resolver) known(gvk schema.GroupVersionKind) (serving, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gvk.Version != "" {
		s, ok := r.served[gvk.GroupVersion()][gvk.Kind]
		return s, ok
	}
	for gv, kinds := range r.served {
		if s, ok := kinds[gvk.Kind]; gv.Group == gvk.Group && ok {
			return s, true
		}
	}
	return serving{}, false
}

// forget has a group and version asked for anew.
func (r *resolver) forget(gv schema.GroupVersion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.served, gv)
}

// forgetGroup has all versions of a group asked for anew.
func (r *resolver) forgetGroup(group string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.served, func(gv schema.GroupVersion, _ map[string]serving) bool { return gv.Group == group })
	delete(r.preferred, group)
}

// fetch asks what a group and version serves.
func (r *resolver) fetch(ctx context.Context, gv schema.GroupVersion) error {
	path := "/apis/" + gv.String()
	if gv.Group == "" {
		path = "/api/" + gv.Version
	}
	list := &metav1.APIResourceList{}
	err := r.client.Get().AbsPath(path).Do(ctx).Into(list)
	if apierrors.IsNotFound(err) {
		r.forget(gv)
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for the kinds of %s: %w", gv, err)
	}
	kinds := make(map[string]serving, len(list.APIResources))
	for i := range list.APIResources {
		res := &list.APIResources[i]
		if strings.Contains(res.Name, "/") {
			continue // a subresource
		}
		kinds[res.Kind] = mappingOf(gv, res)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.served[gv] = kinds
	return nil
}

func mappingOf(gv schema.GroupVersion, res *metav1.APIResource) serving {
	scope := meta.RESTScopeRoot
	if res.Namespaced {
		scope = meta.RESTScopeNamespace
	}
	mapping := &meta.RESTMapping{Resource: gv.WithResource(res.Name), GroupVersionKind: gv.WithKind(res.Kind), Scope: scope}
	return serving{mapping: mapping, verbs: res.Verbs}
}

// versions of a group, the preferred one first.
func (r *resolver) versions(ctx context.Context, group string) ([]string, error) {
	if group == "" {
		return []string{"v1"}, nil
	}
	g := &metav1.APIGroup{}
	err := r.client.Get().AbsPath("/apis/" + group).Do(ctx).Into(g)
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the versions of %s: %w", group, err)
	}
	versions := []string{g.PreferredVersion.Version}
	for _, v := range g.Versions {
		if v.Version != g.PreferredVersion.Version {
			versions = append(versions, v.Version)
		}
	}
	return versions, nil
}
