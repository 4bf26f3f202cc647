package gitops

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/jsonpath"
	"sigs.k8s.io/cli-utils/pkg/object/mutation"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// substitution is one value that is read from another object when the manifest is
// applied, as annotation config.kubernetes.io/apply-time-mutation asks.
type substitution struct {
	mutation.FieldSubstitution
	// source in the cluster, and the version to read it in; empty: any.
	source  inventory.ID
	version string
}

var (
	errMutation   = errors.New("annotation " + mutation.Annotation)
	errSourceName = errors.New("sourceRef needs a kind and a name")
	errPaths      = errors.New("sourcePath and targetPath must be given")
	errSelf       = errors.New("an object cannot be its own source")
	errMatches    = errors.New("must match one field")
	errNoString   = errors.New("is no text, as a token needs it")
	errJSONPath   = errors.New("is no JSONPath")
)

// asked returns what a manifest's annotation asks for, with the kinds of the
// sources checked for their form only.
func asked(o *manifests.Object) ([]mutation.FieldSubstitution, error) {
	if !mentions(o, mutation.Annotation) {
		return nil, nil
	}
	u, err := o.Unstructured()
	if err != nil {
		return nil, err
	}
	list, err := mutation.ReadAnnotation(u)
	if err != nil {
		return nil, fmt.Errorf("read annotation: %w", err)
	}
	for i := range list {
		switch sub := &list[i]; {
		case sub.SourceRef.Kind == "" || sub.SourceRef.Name == "":
			return nil, fmt.Errorf("%w: %w", errMutation, errSourceName)
		case sub.SourcePath == "" || sub.TargetPath == "":
			return nil, fmt.Errorf("%w: %w", errMutation, errPaths)
		}
	}
	return list, nil
}

// sourceKinds are the kinds of a manifest's sources. What is wrong with the
// annotation is told when the object is ordered.
func sourceKinds(o *manifests.Object) []schema.GroupVersionKind {
	list, err := asked(o)
	if err != nil {
		return nil
	}
	kinds := make([]schema.GroupVersionKind, 0, len(list))
	for i := range list {
		kinds = append(kinds, list[i].SourceRef.GroupVersionKind())
	}
	return kinds
}

// substitutions resolves where a step's sources live.
func (pl *planner) substitutions(step *Step) ([]substitution, error) {
	list, err := asked(step.Object)
	if err != nil {
		return nil, err
	}
	subs := make([]substitution, 0, len(list))
	for i := range list {
		ref := list[i].SourceRef
		gvk := ref.GroupVersionKind()
		kind, ok := pl.s.Kinds[gvk]
		if !ok || kind.Err != nil {
			if errors.Is(kind.Err, ErrNotServed) {
				pl.lacks(step, gvk)
			}
			return nil, fmt.Errorf("%w: no matches for kind %q of the source %s", errMutation, gvk.Kind, ref.Name)
		}
		sub := substitution{FieldSubstitution: list[i], source: ref.ToObjMetadata(), version: gvk.Version}
		switch {
		case !kind.Namespaced:
			sub.source.Namespace = ""
		case sub.source.Namespace == "":
			sub.source.Namespace = step.Status.ID.Namespace
		}
		if sub.source == step.Status.ID {
			return nil, fmt.Errorf("%w: %w", errMutation, errSelf)
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

// sourcesOf lists the sources that the set holds: they come before the object.
func sourcesOf(subs []substitution, wanted map[inventory.ID]int) []inventory.ID {
	var needs []inventory.ID
	for i := range subs {
		if _, ok := wanted[subs[i].source]; ok {
			needs = append(needs, subs[i].source)
		}
	}
	return needs
}

// trace stands for the value that a source gives, so that a changed one is noticed.
// What of ConfigMaps and Secrets is live has no values, but they have no status
// either: with them, a new version says that there may be another value.
func (s *substitution) trace(source *unstructured.Unstructured, uid, resourceVersion string) (string, bool) {
	if alwaysCurrent(s.source.GroupKind) {
		return uid + "/" + resourceVersion, true
	}
	if source == nil {
		return "", false
	}
	value, err := field(source.Object, s.SourcePath)
	if err != nil {
		return "", false
	}
	text, err := json.Marshal(value)
	return string(text), err == nil
}

// mutatedDigest is what the inventory records of a manifest with values from
// elsewhere.
func mutatedDigest(o *manifests.Object, traces []string) inventory.Hash {
	h := sha256.New()
	_, _ = h.Write(o.Digest[:])
	for _, trace := range traces {
		fmt.Fprintf(h, "%d\n%s", len(trace), trace)
	}
	return inventory.Short([sha256.Size]byte(h.Sum(nil)))
}

// digestOf is what the inventory records once the object is applied as live has it
// now; false: that cannot be told without asking.
func digestOf(o *manifests.Object, subs []substitution, live func(inventory.ID) (Live, bool)) (inventory.Hash, bool) {
	if len(subs) == 0 {
		return inventory.Short(o.Digest), true
	}
	traces := make([]string, len(subs))
	for i := range subs {
		l, ok := live(subs[i].source)
		if !ok {
			return inventory.Hash{}, false
		}
		var source *unstructured.Unstructured
		if !alwaysCurrent(subs[i].source.GroupKind) {
			source = l.Object.Unstructured()
		}
		if traces[i], ok = subs[i].trace(source, string(l.UID), l.ResourceVersion); !ok {
			return inventory.Hash{}, false
		}
	}
	return mutatedDigest(o, traces), true
}

// judgeAll decides about every object that could be applied: those that take values
// from others after those, for what changes them changes both.
func (pl *planner) judgeAll(steps []Step) {
	var taking []*Step
	for i := range steps {
		switch step := &steps[i]; {
		case step.Status.Action != ActionPending:
		case len(step.subs) > 0:
			taking = append(taking, step)
		default:
			pl.judge(step)
		}
	}
	slices.SortStableFunc(taking, func(a, b *Step) int {
		return cmp.Compare(pl.levels[a.Status.ID], pl.levels[b.Status.ID])
	})
	for _, step := range taking {
		pl.judge(step)
		for i := range step.subs {
			at, held := pl.wanted[step.subs[i].source]
			if held && at >= 0 && steps[at].Status.Action == ActionPending && step.Status.Action == ActionUnchanged {
				step.Status.Action, step.Status.Message = ActionPending, ""
			}
		}
	}
}

// kinds that the object is to be looked at for.
func (w *watched) kinds() []schema.GroupKind {
	kinds := make([]schema.GroupKind, 1, 1+len(w.subs))
	kinds[0] = w.status.ID.GroupKind
	for i := range w.subs {
		kinds = append(kinds, w.subs[i].source.GroupKind)
	}
	return kinds
}

// outdated says that an object took a value that its source does not have any more.
func (w *watched) outdated(live func(inventory.ID) (Live, bool)) bool {
	if len(w.subs) == 0 || w.object == nil || !applied(w.status.Action) {
		return false
	}
	digest, known := digestOf(w.object, w.subs, live)
	return known && withFields(digest, w.optOut.fields) != w.digest
}

// mutate reads the sources and puts their values in place. It returns the digest of
// what came of it, and the values that are secret.
func mutate(ctx context.Context, c Cluster, o *manifests.Object, content map[string]any, subs []substitution) (inventory.Hash, []string, error) {
	sources := map[inventory.ID]*unstructured.Unstructured{}
	traces := make([]string, len(subs))
	var secret []string
	for i := range subs {
		sub := &subs[i]
		source := sources[sub.source]
		if source == nil {
			var err error
			if source, err = c.Read(ctx, sub.source, sub.version); err != nil {
				return inventory.Hash{}, secret, fmt.Errorf("%w: read the source %s: %w", errMutation, describe(sub.source), err)
			}
			sources[sub.source] = source
		}
		value, err := field(source.Object, sub.SourcePath)
		if err != nil {
			return inventory.Hash{}, secret, fmt.Errorf("%w: source %s: %w", errMutation, describe(sub.source), err)
		}
		if isSecret(sub.source) {
			secret = append(secret, leaves(value)...)
		}
		traces[i], _ = sub.trace(source, string(source.GetUID()), source.GetResourceVersion())
		if err := sub.put(content, value); err != nil {
			return inventory.Hash{}, secret, fmt.Errorf("%w: %w", errMutation, err)
		}
	}
	return mutatedDigest(o, traces), secret, nil
}

// put puts a value in place.
func (s *substitution) put(content map[string]any, value any) error {
	before, err := field(content, s.TargetPath)
	if err != nil {
		return err
	}
	if s.Token != "" {
		text, ok := before.(string)
		if !ok {
			return fmt.Errorf("%s %w", s.TargetPath, errNoString)
		}
		replacement, ok := value.(string)
		if !ok {
			encoded, err := json.Marshal(value)
			if err != nil {
				return fmt.Errorf("encode the value of %s: %w", s.SourcePath, err)
			}
			replacement = string(encoded)
		}
		value = strings.ReplaceAll(text, s.Token, replacement)
	}
	return guarded(s.TargetPath, func() error {
		_, err := jsonpath.Set(content, s.TargetPath, value)
		return err //nolint:wrapcheck // guarded does
	})
}

// field reads the one field that a path matches.
func field(content map[string]any, path string) (any, error) {
	var values []any
	err := guarded(path, func() (err error) {
		values, err = jsonpath.Get(content, path)
		return err //nolint:wrapcheck // guarded does
	})
	if err != nil {
		return nil, err
	}
	if len(values) != 1 {
		return nil, fmt.Errorf("%s %w, and matches %d", path, errMatches, len(values))
	}
	return values[0], nil
}

// guarded calls the JSONPath library, which is not known to bear everything that a
// user may write.
func guarded(path string, do func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("%q %w", path, errJSONPath)
		}
	}()
	if err := do(); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	return nil
}
