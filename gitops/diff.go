package gitops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

const (
	// diffParallel leaves most of the API server to who syncs meanwhile.
	diffParallel = 16
	// diffTries is how often a question is asked that the API server puts off, and
	// diffWait how long to wait where it does not say; it doubles.
	diffTries = 5
	diffWait  = 200 * time.Millisecond
)

// Previewer is a Cluster that can be asked what an Apply would do.
type Previewer interface {
	Cluster
	// Peek returns the inventory as it is stored, for reading only. Unlike with Load,
	// somebody else may be at work on it.
	Peek(ctx context.Context, id string) (*inventory.Inventory, error)
	// Preview returns an object as it is (nil: there is none) and as it would be after
	// the Apply, which is a dry run. Both are the caller's to change. Its errors are
	// Apply's.
	Preview(ctx context.Context, a Apply) (before, after *unstructured.Unstructured, err error)
}

// Difference is what a commit would do to one object.
type Difference struct {
	ID inventory.ID
	// Version of the API, without the group; empty for an object that left the set.
	Version string
	// Action is ActionCreated, ActionConfigured, ActionUnchanged, ActionPruned,
	// ActionSkipped (Message says why) or ActionFailed (the API server refuses it).
	Action   Action
	Message  string
	Position manifests.Position
	// Fields that would change, for ActionConfigured.
	Fields []FieldDifference
}

// FieldDifference is one field that would change.
type FieldDifference struct {
	// Path as people write it, such as ".spec.containers[0].image".
	Path string
	// Before and After are JSON, shortened where they are long; empty: the field is
	// not there.
	Before, After string
}

// Diff tells what a Run would do, and does nothing: objects that would be applied are
// asked about by a dry run of the API server. It returns the objects in the order of the
// set, and then what the run would delete. It may be called while a Run or a Watch of the
// same project is under way. The error is for what stops everything; values of Secrets
// are nowhere in the result.
func Diff(ctx context.Context, c Previewer, p Project, d Desired) ([]Difference, error) {
	inv, err := c.Peek(ctx, p.Key)
	if err != nil {
		return nil, ended(ctx, fmt.Errorf("read the inventory: %w", err))
	}
	kinds, err := c.Resolve(ctx, KindsOf(d, inv))
	if err != nil {
		return nil, ended(ctx, fmt.Errorf("find out what the API server serves: %w", err))
	}
	steps := Plan(p, d, State{Inventory: inv, Kinds: kinds, Live: c.Live})
	df := newDiffer(c, p, d, steps.Unserved)
	for _, step := range steps.Verdicts {
		df.verdict(&step)
	}
	var applies []Step
	for _, wave := range append([][]Step{steps.Definitions}, steps.Waves...) {
		applies = append(applies, wave...)
	}
	for _, wave := range steps.Prune {
		for i := range wave {
			df.removal(&wave[i])
		}
	}
	if err := df.applies(ctx, applies); err != nil {
		return nil, ended(ctx, err)
	}
	slices.SortFunc(df.leaving, func(a, b Difference) int { return compareIDs(a.ID, b.ID) })
	return append(df.staying, df.leaving...), nil
}

// differ gathers the differences.
type differ struct {
	cluster Previewer
	project Project
	// staying are the set's objects, in its order, and leaving those that left it.
	staying, leaving []Difference
	// index of a set's object.
	index map[*manifests.Object]int
	// namespaces that the set makes.
	namespaces map[string]struct{}
	// coming are the kinds that the set's own CRDs define and nobody serves yet.
	coming map[schema.GroupVersionKind]struct{}
}

func newDiffer(c Previewer, p Project, d Desired, coming []schema.GroupVersionKind) *differ {
	df := &differ{
		cluster: c, project: p, staying: make([]Difference, len(d.Set.Objects)),
		index:      make(map[*manifests.Object]int, len(d.Set.Objects)),
		namespaces: map[string]struct{}{}, coming: map[schema.GroupVersionKind]struct{}{},
	}
	for i := range d.Set.Objects {
		o := &d.Set.Objects[i]
		df.index[o] = i
		if o.ID.GroupKind.Group == "" && o.ID.GroupKind.Kind == "Namespace" {
			df.namespaces[o.ID.Name] = struct{}{}
		}
	}
	for _, gvk := range coming {
		df.coming[gvk] = struct{}{}
	}
	return df
}

// put files a difference away. Calls for different objects may be made at once, but for
// those that left the set.
func (df *differ) put(s *Step, action Action, message string, fields []FieldDifference) {
	out := Difference{
		ID: s.Status.ID, Version: s.Status.Version, Action: action, Message: message,
		Position: s.Status.Position, Fields: fields,
	}
	if i, ok := df.index[s.Object]; ok {
		df.staying[i] = out
		return
	}
	df.leaving = append(df.leaving, out)
}

// verdict is about what needs no request.
func (df *differ) verdict(s *Step) {
	_, coming := df.coming[s.Status.ID.GroupKind.WithVersion(s.Status.Version)]
	switch {
	case s.Object != nil && coming:
		df.put(s, ActionCreated, "its kind only comes with this commit, so that the API server could not check it", nil)
	case s.Status.Action == ActionUnchanged:
		df.put(s, ActionUnchanged, "", nil)
	case s.Status.Action == ActionPruning:
		df.put(s, ActionPruned, "its deletion has begun", nil)
	default:
		df.put(s, s.Status.Action, s.Status.Message, nil)
	}
}

// removal is about an object that would be deleted or let go of.
func (df *differ) removal(s *Step) {
	if s.Detach {
		df.put(s, ActionSkipped, "would be let go of and stay, as its annotation asks", nil)
		return
	}
	df.put(s, ActionPruned, "", nil)
}

// applies asks the API server about all objects that would be applied.
func (df *differ) applies(ctx context.Context, steps []Step) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(diffParallel)
	for i := range steps {
		g.Go(func() error { return df.preview(ctx, &steps[i]) })
	}
	return g.Wait()
}

// capture has the engine's own way of applying end in a preview.
type capture struct {
	Previewer
	before, after *unstructured.Unstructured
}

// Apply implements Cluster.
func (c *capture) Apply(ctx context.Context, a Apply) (_ Live, err error) {
	c.before, c.after, err = c.Preview(ctx, a)
	return Live{}, err
}

// preview asks about one object.
func (df *differ) preview(ctx context.Context, s *Step) error {
	c := &capture{Previewer: df.cluster}
	err := df.patiently(ctx, func() error {
		request, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		_, _, err := apply(request, c, application{
			object: s.Object, id: s.Status.ID, version: s.Status.Version, subs: s.subs,
			yield: s.optOut.fields, owner: df.project.Key, dryRun: true,
		})
		return err
	})
	var immutable *ImmutableError
	_, namespaceComes := df.namespaces[s.Status.ID.Namespace]
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrUnavailable):
		return fmt.Errorf("%s: %w", describe(s.Status.ID), err)
	case errors.Is(err, ErrNoNamespace) && namespaceComes:
		df.put(s, ActionCreated, "its namespace only comes with this commit, so that the API server could not check it", nil)
	case errors.As(err, &immutable) && mayRecreate(s.Object) == nil:
		df.put(s, ActionConfigured, "would be deleted and created anew, because "+immutable.because(), nil)
	case err != nil:
		df.put(s, ActionFailed, err.Error(), nil)
	case c.before == nil:
		df.put(s, ActionCreated, s.note, nil)
	default:
		df.changed(s, c.before, c.after)
	}
	return nil
}

func (df *differ) changed(s *Step, before, after *unstructured.Unstructured) {
	fields, more := compareObjects(before, after, isSecret(s.Status.ID) || fromSecrets(s.subs))
	message := s.note
	if more > 0 {
		message = addSentence(message, fmt.Sprintf("%d more fields would change", more))
	}
	if len(fields) == 0 {
		df.put(s, ActionUnchanged, message, nil)
		return
	}
	df.put(s, ActionConfigured, message, fields)
}

// fromSecrets says that values of Secrets are put into the object.
func fromSecrets(subs []substitution) bool {
	return slices.ContainsFunc(subs, func(s substitution) bool { return isSecret(s.source) })
}

// patiently asks again where the API server puts a question off.
func (df *differ) patiently(ctx context.Context, ask func() error) error {
	wait := diffWait
	for try := 1; ; try++ {
		err := ask()
		if try == diffTries || !errors.Is(err, ErrThrottled) && !errors.Is(err, ErrTransient) {
			return err
		}
		var throttled *ThrottledError
		pause := wait
		if errors.As(err, &throttled) {
			pause = max(wait, throttled.RetryAfter)
		}
		wait *= 2
		timer := clockOf(df.project.Clock).NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C():
		}
	}
}
