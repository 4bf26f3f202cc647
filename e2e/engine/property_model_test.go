package engine_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// The model is what the engine is to do, as simply as it can be said: one object
// after the other, in maps, with no cluster, no cache and no crash.

// foreignKey is an inventory that is none of ours.
const foreignKey = "9-9"

// modelObject is an object in the model's cluster.
type modelObject struct {
	owner string
	// value is the field that both the manifests and others set.
	value string
	// label is a field that others alone set.
	label string
	// keep: it is marked to survive its removal from the repository.
	keep bool
	// applied: the engine has applied it, and ours: the value is still the engine's.
	applied, ours bool
	// held: a stranger's finalizer is on it, and dying: it was deleted nevertheless.
	held, dying bool
	// life tells an object from one of the same name before it.
	life int
}

// orphaned says that the object has lost its mark, but not all that the engine has
// applied. Of a ClusterRole that is also the rules, which nobody else touches.
func (o modelObject) orphaned(id inventory.ID) bool {
	return o.owner == "" && o.applied && (o.ours || o.keep || id.GroupKind.Kind == "ClusterRole")
}

// manifest is an object in a repository.
type manifest struct {
	value string
	keep  bool
	file  int
}

// modelProject is a manifest project.
type modelProject struct {
	key    string
	policy inventory.Policy
	prune  bool
	// repo is what is in the repository, and broken are files with a mistake in them.
	repo   map[inventory.ID]manifest
	broken map[int]bool
	// received is the newest set that the agent has; nil: none.
	received *modelSet
	// recorded is the inventory.
	recorded map[inventory.ID]bool
}

type modelSet struct {
	objects  map[inventory.ID]manifest
	complete bool
}

// push is a commit that reaches the agent.
func (p *modelProject) push() {
	p.received = &modelSet{objects: map[inventory.ID]manifest{}, complete: true}
	for id, m := range p.repo {
		if p.broken[m.file] {
			p.received.complete = false
			continue
		}
		p.received.objects[id] = m
	}
}

// world is the cluster, and all projects that sync to it.
type world struct {
	objects  map[inventory.ID]modelObject
	projects []*modelProject
	lives    int
}

func (w *world) create(id inventory.ID, o modelObject) {
	w.lives++
	o.life = w.lives
	w.objects[id] = o
}

// sync is what a run of a project does.
func (w *world) sync(p *modelProject) {
	for id, m := range p.received.objects {
		w.apply(p, id, m)
	}
	for id := range maps.Clone(p.recorded) {
		if _, wanted := p.received.objects[id]; !wanted {
			w.leave(p, id)
		}
	}
}

func (w *world) apply(p *modelProject, id inventory.ID, m manifest) {
	o, exists := w.objects[id]
	switch {
	case !exists:
		w.create(id, modelObject{owner: p.key, value: m.value, keep: m.keep, applied: true, ours: true})
	case o.owner == p.key, p.recorded[id] && o.orphaned(id), p.mayTake(o.owner), w.released(p, id, o.owner):
		o.owner, o.value, o.keep, o.applied, o.ours = p.key, m.value, m.keep, true, true
		w.objects[id] = o
	default:
		return
	}
	p.recorded[id] = true
}

// leave is what becomes of an object that is on the inventory and not in the set.
func (w *world) leave(p *modelProject, id inventory.ID) {
	o, exists := w.objects[id]
	ours := exists && (o.owner == p.key || o.owner == "" && p.policy != inventory.PolicyMustMatch)
	switch {
	case !p.received.complete:
	case !ours:
		delete(p.recorded, id)
	case o.dying: // it stays on the inventory until it is gone
	case w.wantedByOther(p, id), !p.prune, len(p.received.objects) == 0:
	case o.keep:
		o.owner = ""
		w.objects[id] = o
		delete(p.recorded, id)
	default:
		w.remove(id)
		if _, exists := w.objects[id]; !exists {
			delete(p.recorded, id)
		}
	}
}

// remove deletes an object.
func (w *world) remove(id inventory.ID) {
	o := w.objects[id]
	if o.held {
		o.dying = true
		w.objects[id] = o
		return
	}
	delete(w.objects, id)
}

// mayTake says whether the policy lets the project take an object of that owner.
func (p *modelProject) mayTake(owner string) bool {
	return p.policy == inventory.PolicyAdoptAll || p.policy == inventory.PolicyAdoptIfNoInventory && owner == ""
}

func (w *world) released(p *modelProject, id inventory.ID, owner string) bool {
	for _, other := range w.projects {
		if other != p && other.key == owner && other.received != nil {
			_, wants := other.received.objects[id]
			return other.received.complete && !wants
		}
	}
	return false
}

func (w *world) wantedByOther(p *modelProject, id inventory.ID) bool {
	for _, other := range w.projects {
		if other != p && other.received != nil {
			if _, wants := other.received.objects[id]; wants {
				return true
			}
		}
	}
	return false
}

// others is what the engine is told of other projects.
type others struct {
	w *world
	p *modelProject
}

func (o others) WantedBy(id inventory.ID) (string, bool) {
	for _, other := range o.w.projects {
		if other != o.p && other.received != nil {
			if _, wants := other.received.objects[id]; wants {
				return other.key, true
			}
		}
	}
	return "", false
}

func (o others) Released(key string, id inventory.ID) bool { return o.w.released(o.p, id, key) }

func (o others) Settled() bool { return true }

var _ gitops.Others = others{}

// documents are the set's manifests, in the order of their files.
func (s *modelSet) documents() []string {
	var docs []string
	for _, id := range sortedIDs(s.objects) {
		docs = append(docs, document(id, s.objects[id]))
	}
	return docs
}

func document(id inventory.ID, m manifest) string {
	doc := map[string]string{
		"ConfigMap": "apiVersion: v1\nkind: ConfigMap\n", "Secret": "apiVersion: v1\nkind: Secret\n",
		"ClusterRole": "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nrules: []\n",
	}[id.GroupKind.Kind]
	doc += "metadata:\n  name: " + id.Name + "\n"
	if id.Namespace != "" {
		doc += "  namespace: " + id.Namespace + "\n"
	}
	doc += fmt.Sprintf("  annotations:\n    %s: %q\n", valueKey, m.value)
	if m.keep {
		doc += "    " + keepKey + ": keep\n"
	}
	return doc
}

// fileErrors are what kas says of broken files.
func (p *modelProject) fileErrors() []manifests.FileError {
	var errs []manifests.FileError
	for _, file := range slices.Sorted(maps.Keys(p.broken)) {
		errs = append(errs, manifests.FileError{Path: fmt.Sprintf("%d.yaml", file), Line: 1, Message: "is broken"})
	}
	return errs
}

func sortedIDs[V any](m map[inventory.ID]V) []inventory.ID {
	return slices.SortedFunc(maps.Keys(m), func(a, b inventory.ID) int {
		switch x, y := a.String(), b.String(); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
}
