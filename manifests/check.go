package manifests

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kas-agentk/kas/inventory"
)

// localConfig marks an object that is meant for tools and not for the cluster. As for
// cli-utils, its value does not matter.
const localConfig = "config.kubernetes.io/local-config"

// maxNameLength of an object, in bytes.
const maxNameLength = 253

// object checks an object and notes it, or what is wrong with it. All mistakes of
// one object are told at once.
func (f *file) object(o map[string]any, line int) {
	if isLocalConfig(o) || f.edit != nil && !f.edit(o) {
		return
	}
	if hint := renderHint(f.result.Path, o); hint != "" {
		f.error(mistakef(line, "%s", hint))
		return
	}
	c := &checker{line: line}
	id := c.identity(o)
	if len(c.mistakes) > 0 {
		for _, m := range c.mistakes {
			f.error(m)
		}
		return
	}
	canonical, err := json.Marshal(o)
	if err != nil {
		f.error(mistakef(line, "cannot be written as JSON: %v", err))
		return
	}
	if len(canonical) > f.limits.MaxObjectSize {
		f.error(mistakef(line, "the object has %d bytes as JSON, more than the limit of %d that Kubernetes accepts", len(canonical), f.limits.MaxObjectSize))
		return
	}
	f.result.Objects = append(f.result.Objects, Object{
		ID:       id,
		Digest:   sha256.Sum256(canonical),
		JSON:     canonical,
		Position: Position{Path: f.result.Path, Line: line},
	})
}

func isLocalConfig(o map[string]any) bool {
	metadata, _ := o["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	_, local := annotations[localConfig]
	return local
}

// renderHint says what to do with a file that is to be rendered rather than applied.
// Empty: it is no such file.
func renderHint(file string, o map[string]any) string {
	name, dir := path.Base(file), path.Dir(file)
	apiVersion, _ := o["apiVersion"].(string)
	_, dependsOn := o["dependencies"]
	switch {
	case strings.HasPrefix(apiVersion, "kustomize.config.k8s.io/"),
		o["kind"] == nil && (name == "kustomization.yaml" || name == "kustomization.yml"):
		return fmt.Sprintf("a kustomization: to have it rendered, add \"- kustomize: {path: %s}\" to paths in the agent's configuration; or leave this file out by the globs", dir)
	case name == "Chart.yaml" && o["kind"] == nil && (o["name"] != nil && o["version"] != nil || dependsOn):
		return fmt.Sprintf("a Helm chart: to have it rendered, add \"- helm: {chart: %s}\" to paths in the agent's configuration; or leave this directory out by the globs", dir)
	default:
		return ""
	}
}

// checker gathers the mistakes of one object.
type checker struct {
	line     int
	mistakes []*mistake
}

func (c *checker) add(format string, args ...any) {
	c.mistakes = append(c.mistakes, mistakef(c.line, format, args...))
}

// identity returns who the object is, after checking what every object must have.
func (c *checker) identity(o map[string]any) inventory.ID {
	apiVersion := c.text(o, "apiVersion")
	kind := c.text(o, "kind")
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil || apiVersion != "" && gv.Version == "" {
		c.add("apiVersion %q is not a version: write \"v1\" or \"group/version\"", apiVersion)
	}
	id := inventory.ID{GroupKind: schema.GroupKind{Group: gv.Group, Kind: kind}}
	metadata, ok := o["metadata"].(map[string]any)
	if !ok {
		if o["metadata"] == nil {
			c.add("metadata.name is missing")
		} else {
			c.add("metadata must be a map, not %s", describe(o["metadata"]))
		}
		return id
	}
	id.Name = c.name(metadata)
	id.Namespace = c.namespace(metadata)
	c.texts(metadata, "labels")
	c.texts(metadata, "annotations")
	return id
}

// text returns a field that must be a string and not be empty.
func (c *checker) text(o map[string]any, field string) string {
	switch v := o[field].(type) {
	case string:
		if v == "" {
			c.add("%s is empty", field)
		}
		return v
	case nil:
		c.add("%s is missing", field)
	default:
		c.add("%s must be a string, not %s", field, describe(v))
	}
	return ""
}

func (c *checker) name(metadata map[string]any) string {
	if metadata["name"] == nil && metadata["generateName"] != nil {
		c.add("metadata.generateName would create another object at every sync: set metadata.name instead")
		return ""
	}
	switch name := metadata["name"].(type) {
	case string:
		if name == "" {
			c.add("metadata.name is empty")
		} else if problems := content.IsPathSegmentName(name); len(problems) > 0 {
			c.add("metadata.name %q is not valid: it %s", clip(name), strings.Join(problems, ", "))
		} else if len(name) > maxNameLength {
			c.add("metadata.name has %d characters, more than the limit of %d", len(name), maxNameLength)
		}
		return name
	case nil:
		c.add("metadata.name is missing")
	default:
		c.add("metadata.name must be a string, not %s: put it in quotes", describe(name))
	}
	return ""
}

func (c *checker) namespace(metadata map[string]any) string {
	switch namespace := metadata["namespace"].(type) {
	case nil:
	case string:
		if namespace == "" {
			return ""
		}
		if problems := validation.IsDNS1123Label(namespace); len(problems) > 0 {
			c.add("metadata.namespace %q is not valid: %s", clip(namespace), problems[0])
		}
		return namespace
	default:
		c.add("metadata.namespace must be a string, not %s: put it in quotes", describe(namespace))
	}
	return ""
}

// texts checks a field whose values must be strings: a plain true or 1 is the
// commonest mistake there is.
func (c *checker) texts(metadata map[string]any, field string) {
	switch pairs := metadata[field].(type) {
	case nil:
	case map[string]any:
		var bad []string
		for key, v := range pairs {
			if _, ok := v.(string); !ok && v != nil {
				bad = append(bad, key)
			}
		}
		slices.Sort(bad)
		for _, key := range bad {
			c.add("metadata.%s %q must be a string, not %s: put it in quotes", field, key, describe(pairs[key]))
		}
	default:
		c.add("metadata.%s must be a map, not %s", field, describe(pairs))
	}
}
