// Package resources knows how people name the resources of the Kubernetes API: in the
// singular, by the short names of kubectl, without the group where everybody knows it,
// or in full as RESOURCE[.VERSION].GROUP.
//
// In goes a text, out comes a Name as URLs of the API have it. Resources that are not
// Kubernetes' own are taken as they are written: whether the API server serves them is
// for the cluster to say.
package resources

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Name of a resource.
type Name struct {
	// Group is empty for the core group.
	Group string
	// Version is empty where the API server may choose.
	Version string
	// Resource in the plural and in lower case, for example "deployments".
	Resource string
}

// String is the name as Parse reads it.
func (n Name) String() string {
	parts := []string{n.Resource}
	if n.Version != "" {
		parts = append(parts, n.Version)
	}
	if n.Group != "" || n.Version != "" {
		parts = append(parts, n.Group)
	}
	return strings.Join(parts, ".")
}

// Known says whether the resource is one of Kubernetes' own.
func (n Name) Known() bool { return n.find() != nil }

// ClusterScoped says whether it is known that the resource's objects are in no namespace.
func (n Name) ClusterScoped() bool {
	k := n.find()
	return k != nil && k.clusterScoped
}

func (n Name) find() *kind {
	for i := range kinds {
		if kinds[i].plural == n.Resource && kinds[i].group == n.Group {
			return &kinds[i]
		}
	}
	return nil
}

var (
	versionForm  = regexp.MustCompile(`^v[0-9]+((alpha|beta)[0-9]+)?$`)
	resourceForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	groupForm    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
)

// maxName is the longest name, in bytes.
const maxName = 317 // a resource of 63, a group of 253, and the dot

// Parse reads the name of a resource. An error says what is wrong with it.
func Parse(text string) (Name, error) {
	resource, rest, _ := strings.Cut(strings.ToLower(strings.TrimSpace(text)), ".")
	n := Name{Resource: resource}
	// "pods.v1" and "pods.v1." are of the core group.
	if first, group, _ := strings.Cut(rest, "."); versionForm.MatchString(first) {
		n.Version, n.Group = first, group
	} else {
		n.Group = rest
	}
	if len(text) > maxName || !resourceForm.MatchString(n.Resource) || (n.Group != "" && !groupForm.MatchString(n.Group)) {
		return Name{}, fmt.Errorf("%q does not name a resource: want for example pods, deployments.apps or widgets.example.com", clip(text))
	}
	for i := range kinds {
		k := &kinds[i]
		if k.goesBy(n.Resource) && (n.Group == "" && n.Version == "" || n.Group == k.group) {
			n.Resource, n.Group = k.plural, k.group
			break
		}
	}
	return n, nil
}

func clip(text string) string {
	const most = 80
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// Common are the names that people ask for most, as Parse reads them.
func Common() []string {
	return []string{
		"pods", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs", "cronjobs", "services", "ingresses",
		"endpointslices", "configmaps", "secrets", "serviceaccounts", "persistentvolumeclaims", "persistentvolumes",
		"horizontalpodautoscalers", "poddisruptionbudgets", "networkpolicies", "events", "namespaces", "nodes",
		"storageclasses", "customresourcedefinitions",
	}
}

// Plurals of all of Kubernetes' own resources, in the order of their names.
func Plurals() []string {
	names := make([]string, 0, len(kinds))
	for i := range kinds {
		names = append(names, kinds[i].plural)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
