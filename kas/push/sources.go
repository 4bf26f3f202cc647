package push

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/manifests"
	"github.com/kas-agentk/kas/manifests/render"
)

// maxRenders is how many directories of one project may be rendered.
const maxRenders = 100

// sources are what of a repository is manifests, and what is rendered into such.
type sources struct {
	// globs is nil where everything is rendered.
	globs   *manifests.Selector
	renders []render.Entry
}

// newSources reads a project's paths; none stand for the default glob.
func newSources(paths []*agentcfg.PathCfg, namespace string) (*sources, error) {
	s := &sources{}
	var globs []string
	for i, path := range paths {
		entry, rendered, err := entryOf(path, namespace)
		switch {
		case err != nil:
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		case !rendered:
			globs = append(globs, path.GetGlob())
		case !slices.ContainsFunc(s.renders, func(e render.Entry) bool { return e.Key() == entry.Key() }):
			s.renders = append(s.renders, entry)
		}
	}
	if len(s.renders) > maxRenders {
		return nil, fmt.Errorf("%d directories to render, more than the limit of %d", len(s.renders), maxRenders)
	}
	slices.SortFunc(s.renders, func(a, b render.Entry) int { return strings.Compare(a.Key(), b.Key()) })
	if len(s.renders) > 0 && len(globs) == 0 {
		return s, nil
	}
	var err error
	s.globs, err = manifests.NewSelector(globs)
	return s, err
}

// entryOf returns what a path asks to render; false where it is a glob.
func entryOf(path *agentcfg.PathCfg, namespace string) (render.Entry, bool, error) {
	var kinds int
	for _, set := range []bool{path.GetGlob() != "", path.GetKustomize() != nil, path.GetHelm() != nil} {
		if set {
			kinds++
		}
	}
	if kinds > 1 {
		return render.Entry{}, false, errors.New("glob, kustomize and helm exclude each other")
	}
	switch {
	case path.GetKustomize() != nil:
		e, err := render.Kustomize(path.GetKustomize().GetPath())
		return e, true, err
	case path.GetHelm() != nil:
		h := path.GetHelm()
		e, err := render.Helm(render.Chart{
			Dir: h.GetChart(), ValuesFiles: h.GetValuesFiles(), Release: h.GetReleaseName(),
			Namespace: h.GetNamespace(), DefaultNamespace: namespace,
		})
		return e, true, err
	default:
		return render.Entry{}, false, nil
	}
}

// Key is equal for sources that give the same by the same words.
func (s *sources) Key() string {
	var keys []string
	if s.globs != nil {
		keys = append(keys, "globs", s.globs.Key())
	}
	for _, e := range s.renders {
		keys = append(keys, e.Key())
	}
	return strings.Join(keys, "\x03")
}

// Match tells whether a file is manifests by itself: no glob selects what is rendered.
func (s *sources) Match(path string) bool {
	return s.globs != nil && s.globs.Match(path) &&
		!slices.ContainsFunc(s.renders, func(e render.Entry) bool { return e.Owns(path) })
}

// Globs returns the patterns.
func (s *sources) Globs() []string {
	if s.globs == nil {
		return nil
	}
	return s.globs.Globs()
}

// render returns what the entries make of a commit's files. What would not change is taken
// from the set before.
func (f *feed) render(ctx context.Context, files []gitrepo.File) ([]manifests.FileResult, error) {
	if len(f.selector.renders) == 0 {
		return nil, nil
	}
	ids := make(map[string]string, len(files))
	for _, file := range files {
		ids[file.Path] = file.OID
	}
	tree := render.NewTree(ids)
	rendered := make(map[string]render.Result, len(f.selector.renders))
	results := make([]manifests.FileResult, 0, len(f.selector.renders))
	for _, entry := range f.selector.renders {
		result, ok := f.rendered[entry.Key()]
		if !ok || !result.Valid(tree) {
			var err error
			began := f.feeds.clock.Now()
			if result, err = f.feeds.renderer.Render(ctx, entry, tree, f.loader(ids)); err != nil {
				return nil, err
			}
			f.feeds.metrics.renders.Observe(f.feeds.clock.Since(began).Seconds())
		}
		rendered[entry.Key()] = result
		results = append(results, result.File)
	}
	f.rendered = rendered
	return results, nil
}

// loader fetches files for a rendering.
func (f *feed) loader(ids map[string]string) render.Load {
	return func(ctx context.Context, paths []string, maxSize int64, yield func(path string, data []byte, size int64)) error {
		byID := make(map[string][]string, len(paths))
		oids := make([]string, 0, len(paths))
		for _, path := range paths {
			oid := ids[path]
			if byID[oid] == nil {
				oids = append(oids, oid)
			}
			byID[oid] = append(byID[oid], path)
		}
		err := f.feeds.source.Blobs(ctx, f.repo, oids, maxSize, func(oid string, data []byte, size int64) error {
			for _, path := range byID[oid] {
				yield(path, data, size)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%d blobs: %w", len(oids), err)
		}
		return nil
	}
}
