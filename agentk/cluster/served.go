package cluster

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
)

// Mapping returns how a resource is served that can be listed and watched: in the version
// that the API server prefers where none is named. It asks the API server what is not
// known yet. The error wraps gitops.ErrNotServed, is a MethodNotSupported of apimachinery
// where the resource cannot be listed and watched, or says why the API server does not
// answer.
func (c *Cluster) Mapping(ctx context.Context, gvr schema.GroupVersionResource) (*meta.RESTMapping, error) {
	mapping, err := c.resolver.resource(ctx, gvr)
	return mapping, explain(err)
}

// KindMapping is Mapping for a kind, in any version.
func (c *Cluster) KindMapping(ctx context.Context, gk schema.GroupKind) (*meta.RESTMapping, error) {
	mapping, err := c.resolver.resolve(ctx, gk.WithVersion(""))
	return mapping, explain(err)
}

// Unserved has Mapping ask anew about the resources of a group.
func (c *Cluster) Unserved(group string) { c.resolver.forgetGroup(group) }

// resource is resolve for the name of a resource, to be listed and watched.
func (r *resolver) resource(ctx context.Context, gvr schema.GroupVersionResource) (*meta.RESTMapping, error) {
	if s, ok := r.knownResource(gvr); ok && s.unfollowable(gvr) == nil {
		return s.mapping, nil
	}
	versions := []string{gvr.Version}
	if gvr.Version == "" {
		var err error
		if versions, err = r.versions(ctx, gvr.Group); err != nil {
			return nil, err
		}
		r.prefer(gvr.Group, versions)
	}
	for _, version := range versions {
		gv := schema.GroupVersion{Group: gvr.Group, Version: version}
		if err := r.fetch(ctx, gv); err != nil {
			return nil, err
		}
		if s, ok := r.knownResource(gv.WithResource(gvr.Resource)); ok {
			return s.mapping, s.unfollowable(gvr)
		}
	}
	return nil, fmt.Errorf("%w: %s", gitops.ErrNotServed, gvr)
}

// unfollowable says what keeps a resource from being followed.
func (s serving) unfollowable(gvr schema.GroupVersionResource) error {
	for _, verb := range []string{"list", "watch"} {
		if !slices.Contains(s.verbs, verb) {
			return apierrors.NewMethodNotSupported(gvr.GroupResource(), verb)
		}
	}
	return nil
}

// prefer notes the versions of a group, the preferred one first.
func (r *resolver) prefer(group string, versions []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.preferred[group] = versions
}

// knownResource looks up without asking. Of a resource without a version it knows nothing
// where a version may serve it that has not been asked for.
func (r *resolver) knownResource(gvr schema.GroupVersionResource) (serving, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	versions := []string{gvr.Version}
	if gvr.Version == "" {
		versions = r.preferred[gvr.Group]
	}
	for _, version := range versions {
		kinds, asked := r.served[schema.GroupVersion{Group: gvr.Group, Version: version}]
		if !asked {
			break
		}
		for _, s := range kinds {
			if s.mapping.Resource.Resource == gvr.Resource {
				return s, true
			}
		}
	}
	return serving{}, false
}
