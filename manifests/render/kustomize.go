package render

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/kas-agentk/kas/manifests"
)

// kustomize renders a kustomization. Nothing is returned where there are mistakes.
func (b *bench) kustomize(e Entry) []manifests.Object {
	root := e.file(b.tree)
	for _, name := range kustomizationFiles {
		b.look(path.Join(e.dir, name))
	}
	if !b.tree.isFile(root) {
		b.mistake(root, 0, "no such file: correct the kustomize entry in paths of the agent's configuration, or add the kustomization")
		return nil
	}
	keepOrigin := false
	fsys := filesystem{bench: b, kustomization: func(name string, data []byte) ([]byte, error) {
		g, err := b.kustomization(name, data)
		if err != nil || name != root {
			return data, err
		}
		keepOrigin = slices.Contains(g.k.BuildMetadata, types.OriginAnnotations)
		return g.withOrigins()
	}}
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionNone
	options.LoadRestrictions = types.LoadRestrictionsNone // there is nothing but the repository
	options.PluginConfig = types.DisabledPluginConfig()
	made, err := krusty.MakeKustomizer(options).Run(fsys, path.Join(mount, e.dir))
	if b.stopped() {
		return nil
	}
	if err != nil {
		b.mistake(root, 1, "Kustomize: %s", shorten(err.Error()))
		return nil
	}
	return b.kustomized(e, root, made, keepOrigin)
}

// withOrigins returns the kustomization with a wish to be told what comes from where.
func (g *guard) withOrigins() ([]byte, error) {
	if slices.Contains(g.k.BuildMetadata, types.OriginAnnotations) || len(g.doc.Content) != 1 {
		return yaml.Marshal(&g.doc) //nolint:wrapcheck // Kustomize words it
	}
	wish := append(slices.Clone(g.k.BuildMetadata), types.OriginAnnotations)
	var value yaml.Node
	if err := value.Encode(wish); err != nil {
		return nil, err //nolint:wrapcheck // Kustomize words it
	}
	mapping := g.doc.Content[0]
	mapping.Content = slices.Clone(mapping.Content)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if strings.EqualFold(mapping.Content[i].Value, "buildMetadata") {
			mapping.Content[i+1] = &value
			return yaml.Marshal(&g.doc) //nolint:wrapcheck // Kustomize words it
		}
	}
	mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "buildMetadata"}, &value)
	return yaml.Marshal(&g.doc) //nolint:wrapcheck // Kustomize words it
}

// kustomized turns what Kustomize made into objects.
func (b *bench) kustomized(e Entry, root string, made resmap.ResMap, keepOrigin bool) []manifests.Object {
	places := &places{bench: b, files: map[string][]manifests.Object{}}
	positions := make([]manifests.Position, made.Size())
	for i, r := range made.Resources() {
		origin, err := r.GetOrigin()
		if err != nil {
			origin = nil
		}
		positions[i] = places.of(e, root, r, origin)
	}
	if !keepOrigin {
		if err := made.RemoveOriginAnnotations(); err != nil {
			b.mistake(root, 1, "Kustomize: %s", shorten(err.Error()))
			return nil
		}
	}
	var objects []manifests.Object
	for i, r := range made.Resources() {
		data, err := r.MarshalJSON()
		if err != nil {
			b.mistake(positions[i].Path, positions[i].Line, "Kustomize: %s", shorten(err.Error()))
			continue
		}
		list, mistakes := manifests.ParseRendered(positions[i], data, b.limits, true, nil)
		b.add(mistakes...)
		objects = append(objects, list...)
		if len(objects) > b.limits.MaxObjects {
			b.mistake(root, 1, "what is rendered has more objects than the limit of %d", b.limits.MaxObjects)
			return nil
		}
	}
	return objects
}

// places finds where objects stand in the files that they come from.
type places struct {
	bench *bench
	files map[string][]manifests.Object
}

// of returns an object's place; that of the kustomization where it is not known.
func (p *places) of(e Entry, root string, r *resource.Resource, origin *resource.Origin) manifests.Position {
	switch {
	case origin == nil:
		return manifests.Position{Path: root, Line: 1}
	case origin.Path == "":
		if g := p.bench.guards[path.Join(e.dir, origin.ConfiguredIn)]; g != nil {
			return manifests.Position{Path: g.file, Line: g.lineOfGenerator(r.GetName())}
		}
		return manifests.Position{Path: root, Line: 1}
	}
	file := path.Join(e.dir, origin.Path)
	if !p.bench.tree.isFile(file) {
		return manifests.Position{Path: root, Line: 1}
	}
	objects, ok := p.files[file]
	if !ok {
		limits := p.bench.limits
		limits.MaxObjectSize = int(limits.MaxFileSize) // what is too large in the end is told later
		objects = manifests.ParseFile(file, p.bench.data[file], limits).Objects
		p.files[file] = objects
	}
	line, longest := 1, -1
	for i := range objects {
		// Names may have got a prefix, a suffix or another one by a patch.
		o := &objects[i]
		if o.ID.GroupKind.Kind != r.GetKind() || o.ID.GroupKind.Group != r.GetGvk().Group {
			continue
		}
		if n := len(o.ID.Name); strings.Contains(r.GetName(), o.ID.Name) && n > longest {
			line, longest = o.Position.Line, n
		} else if longest < 0 {
			line, longest = o.Position.Line, 0
		}
	}
	return manifests.Position{Path: file, Line: line}
}

// quoted matches where the libraries quote whole configurations, patches, templates and
// values: they may hold secrets.
var quoted = regexp.MustCompile("(?s)`[^`]*`" + `|from \[.*\]|(?:parse template|execution for) "(?:[^"\\]|\\.)*"|"(?:[^"\\]|\\.)*"`)

// maxWord is longer than a path or name that a library quotes.
const maxWord = 80

// shorten takes out of what a library says the paths of our own and what it quotes at
// length, and keeps the end, which says most.
func shorten(message string) string {
	message = quoted.ReplaceAllStringFunc(strings.ReplaceAll(message, mount+"/", ""), func(text string) string {
		if text[0] == '"' && len(text) <= maxWord {
			return text
		}
		return "[…]"
	})
	message = strings.ReplaceAll(strings.TrimSpace(message), "\n", " ")
	const head, tail = 120, 400
	if len(message) > head+tail {
		message = message[:head] + " … " + message[len(message)-tail:]
	}
	return strings.ToValidUTF8(message, "")
}
