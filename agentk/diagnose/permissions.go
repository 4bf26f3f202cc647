package diagnose

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/gitops"
)

const (
	// parallelReviews bounds questions at a time, maxReviews in one examination.
	parallelReviews = 8
	maxReviews      = 3000
	// maxKinds and maxNamespaces of a kind are looked at.
	maxKinds, maxNamespaces = 500, 50
)

// permit finds out which permissions agentk lacks.
func (e *Examiner) permit(ctx context.Context, kinds []*agentrpc.UsedKind, into *agentrpc.Permissions) {
	r := &review{ctx: ctx, examiner: e, into: into}
	if who, err := e.self.Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); err == nil {
		into.User = clip(who.Status.UserInfo.Username) // older API servers do not tell
	}
	wanted := append(own(e.cfg.Namespace), impersonation(e.configured.Load())...)
	everything := r.may(need{verb: "*", group: "*", resource: "*"})
	switch {
	case r.err != nil: // the others would fare no better
		r.finish()
		return
	case everything:
		into.Checked = uint32(len(wanted) + len(kinds)*len(verbsOfKinds))
		return
	}
	r.group.SetLimit(parallelReviews)
	for _, one := range wanted {
		r.group.Go(func() error { r.check(one); return nil })
	}
	if len(kinds) > maxKinds {
		r.trouble(fmt.Errorf("of %d kinds, %d were looked at", len(kinds), maxKinds)) //nolint:err113 // for people
		kinds = kinds[:maxKinds]
	}
	for _, kind := range kinds {
		r.group.Go(func() error { r.kind(kind); return nil })
	}
	_ = r.group.Wait() // nothing fails
	r.finish()
}

// review is what is asked about permissions in one examination.
type review struct {
	ctx      context.Context //nolint:containedctx // it lives as long as one call
	examiner *Examiner
	group    errgroup.Group

	mu      sync.Mutex
	asked   int
	into    *agentrpc.Permissions
	missing []need
	err     error
}

// verbsOfKinds are needed on each kind: the first two in all namespaces.
var verbsOfKinds = []string{"list", "watch", "get", "create", "patch", "delete"}

// kind checks what is needed to sync objects of a kind.
func (r *review) kind(kind *agentrpc.UsedKind) {
	gk := schema.GroupKind{Group: kind.GetGroup(), Kind: kind.GetKind()}
	mapping, err := r.examiner.kinds.KindMapping(r.ctx, gk)
	switch {
	case errors.Is(err, gitops.ErrNotServed): // which the status of the project says
		return
	case err != nil:
		r.trouble(fmt.Errorf("kind %s: %w", gk, err))
		return
	}
	for i, verb := range verbsOfKinds {
		one := need{verb: verb, group: mapping.Resource.Group, resource: mapping.Resource.Resource, purpose: purposeSync}
		if i < 2 {
			r.check(one)
			continue
		}
		r.checkIn(one, mapping, kind.GetNamespaces())
	}
}

// checkIn is check for what suffices in the namespaces in which objects are.
func (r *review) checkIn(one need, mapping *meta.RESTMapping, namespaces []string) {
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace || len(namespaces) == 0 {
		r.check(one)
		return
	}
	if r.count(); r.may(one) {
		return
	}
	for _, namespace := range namespaces[:min(len(namespaces), maxNamespaces)] {
		one.namespace = namespace
		r.check(one)
	}
}

// check notes a need that is not met.
func (r *review) check(one need) {
	r.count()
	if !r.may(one) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.missing = append(r.missing, one)
	}
}

func (r *review) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.into.Checked++
}

// may asks whether agentk may do something. Where that cannot be found out, it is noted as
// trouble, and taken to be allowed.
func (r *review) may(one need) bool {
	r.mu.Lock()
	r.asked++
	spent := r.asked > maxReviews
	r.mu.Unlock()
	if spent {
		r.trouble(fmt.Errorf("there are more than %d permissions to look at", maxReviews)) //nolint:err113 // for people
		return true
	}
	answer, err := r.examiner.reviews.Create(r.ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: one.verb, Group: one.group, Resource: one.resource, Subresource: one.subresource,
			Namespace: one.namespace, Name: one.name,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		r.trouble(fmt.Errorf("ask for permission to %s %s: %w", one.verb, one.path(), err))
		return true
	}
	return answer.Status.Allowed
}

// trouble notes why not everything is known; the first reason counts.
func (r *review) trouble(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

// finish tells what is missing, the verbs of one resource together.
func (r *review) finish() {
	if r.err != nil {
		r.into.Error = clip(r.err.Error())
	}
	slices.SortFunc(r.missing, func(a, b need) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.path(), b.path()), cmp.Compare(a.namespace, b.namespace),
			cmp.Compare(a.purpose, b.purpose), cmp.Compare(slices.Index(verbsOfKinds, a.verb), slices.Index(verbsOfKinds, b.verb)),
			cmp.Compare(a.verb, b.verb))
	})
	for _, one := range r.missing {
		if n := len(r.into.Missing); n > 0 {
			last := r.into.Missing[n-1]
			if last.GetGroup() == one.group && last.GetResource() == one.path() && last.GetNamespace() == one.namespace && last.GetPurpose() == one.purpose {
				if !slices.Contains(last.GetVerbs(), one.verb) {
					last.Verbs = append(last.Verbs, one.verb)
				}
				continue
			}
		}
		r.into.Missing = append(r.into.Missing, &agentrpc.MissingPermission{
			Verbs: []string{one.verb}, Group: one.group, Resource: one.path(), Namespace: one.namespace, Purpose: one.purpose,
		})
	}
}
