package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
)

const (
	definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	servicesPath    = "/apis/apiregistration.k8s.io/v1/apiservices"
)

// markGone finds out which of the kinds that are not served nothing defines any
// more: there is no CRD for them, and no other API server that may only be down. The
// objects of a CRD go with it. What cannot be found out is not taken for gone.
func (c *Cluster) markGone(ctx context.Context, kinds map[schema.GroupVersionKind]gitops.Kind) {
	client := c.resolver.client
	var groups map[string][]string
	for gvk, kind := range kinds {
		if gvk.Version != "" || !errors.Is(kind.Err, gitops.ErrNotServed) || gvk.Group == "" {
			continue
		}
		if groups == nil {
			var err error
			if groups, err = definedGroups(ctx, client); err != nil {
				return
			}
		}
		if defined, err := isDefined(ctx, client, gvk.GroupKind(), groups[gvk.Group]); err != nil || defined {
			continue
		}
		kind.Gone = true
		kinds[gvk] = kind
	}
}

// definedGroups lists the names of the CRDs by their group. A group that another API
// server serves has the name of that APIService.
func definedGroups(ctx context.Context, client rest.Interface) (map[string][]string, error) {
	groups := map[string][]string{}
	definitions := &metav1.PartialObjectMetadataList{}
	if err := listMetadata(ctx, client, definitionsPath, definitions); err != nil {
		return nil, err
	}
	for i := range definitions.Items {
		name := definitions.Items[i].Name
		_, group, _ := strings.Cut(name, ".") // "<plural>.<group>"
		groups[group] = append(groups[group], definitionsPath+"/"+name)
	}
	services := &metav1.PartialObjectMetadataList{}
	if err := listMetadata(ctx, client, servicesPath, services); err != nil {
		return nil, err
	}
	for i := range services.Items {
		s := &services.Items[i]
		_, group, _ := strings.Cut(s.Name, ".") // "<version>.<group>"
		if s.Labels["kube-aggregator.kubernetes.io/automanaged"] == "" {
			groups[group] = append(groups[group], servicesPath+"/"+s.Name)
		}
	}
	return groups, nil
}

func listMetadata(ctx context.Context, client rest.Interface, path string, into *metav1.PartialObjectMetadataList) error {
	err := client.Get().AbsPath(path).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").
		Do(ctx).Into(into)
	if err != nil {
		return fmt.Errorf("list %s: %w", path, err)
	}
	return nil
}

// isDefined says whether one of these CRDs defines the kind, or an APIService may.
func isDefined(ctx context.Context, client rest.Interface, gk schema.GroupKind, paths []string) (bool, error) {
	for _, path := range paths {
		if strings.HasPrefix(path, servicesPath) {
			return true, nil
		}
		kind, err := definedKind(ctx, client, path)
		if err != nil || kind == gk.Kind {
			return true, err
		}
	}
	return false, nil
}

// definedKind reads the kind that a CRD defines.
func definedKind(ctx context.Context, client rest.Interface, path string) (string, error) {
	raw, err := client.Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	var crd struct {
		Spec struct {
			Names struct {
				Kind string `json:"kind"`
			} `json:"names"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &crd); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return crd.Spec.Names.Kind, nil
}
