package agents

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/manifests"
	"github.com/kas-agentk/kas/manifests/render"
)

// checkPath checks an entry of paths. keys lead to what is wrong in it.
func checkPath(p *agentcfg.PathCfg, namespace string) (keys []string, err error) {
	var set []string
	if p.GetGlob() != "" {
		set = append(set, "glob")
	}
	if p.GetKustomize() != nil {
		set = append(set, "kustomize")
	}
	if p.GetHelm() != nil {
		set = append(set, "helm")
	}
	switch {
	case len(set) > 1:
		return nil, fmt.Errorf("an entry of paths has both %s: write an entry for each", strings.Join(set, " and "))
	case p.GetKustomize() != nil:
		_, err = render.Kustomize(p.GetKustomize().GetPath())
		return []string{"kustomize", "path"}, err
	case p.GetHelm() != nil:
		h := p.GetHelm()
		_, err = render.Helm(render.Chart{
			Dir: h.GetChart(), ValuesFiles: h.GetValuesFiles(), Release: h.GetReleaseName(), Namespace: h.GetNamespace(), DefaultNamespace: namespace,
		})
		return []string{"helm", helmKey(err)}, err
	case len(set) == 0:
		return nil, errors.New("an entry of paths is empty: write glob, kustomize or helm in it")
	default:
		_, err = manifests.NewSelector([]string{p.GetGlob()})
		return []string{"glob"}, err
	}
}

// helmKey returns the key that an error of render.Helm begins with.
func helmKey(err error) string {
	if err == nil {
		return ""
	}
	key, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "helm."), " ")
	return strings.TrimSuffix(key, ":")
}
