package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestRun_ForbiddenKindFailsAlone(t *testing.T) {
	a := newAgent(t)
	a.stop()
	limited := rest.CopyConfig(server)
	limited.Impersonate = rest.ImpersonationConfig{UserName: a.namespace}
	_, err := a.client.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"}},
			{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"patch", "get"}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = a.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: a.namespace},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: a.namespace}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	testkit.Eventually(t, func() error { return a.may("list", "configmaps") })
	a.start(limited)
	service := "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\nspec:\n  ports:\n  - port: 80\n"

	result, l := a.sync(configMap("fine", "1"), service)
	require.Equal(t, 1, result.Failed)
	require.Equal(t, gitops.ActionCreated, l.get("ConfigMap/fine").Action)
	require.Equal(t, gitops.ActionFailed, l.get("Service/s").Action)
	require.Contains(t, l.get("Service/s").Message, `cannot list resource "services"`)

	// Somebody grants it: the next run tries again at once.
	role, err := a.client.RbacV1().ClusterRoles().Get(t.Context(), a.namespace, metav1.GetOptions{})
	require.NoError(t, err)
	role.Rules[1].Verbs = []string{"*"}
	_, err = a.client.RbacV1().ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{})
	require.NoError(t, err)
	testkit.Eventually(t, func() error { return a.may("list", "services") })
	result, l = a.sync(configMap("fine", "1"), service)
	require.Zero(t, result.Failed, "%+v", l.newest)
}

// may says whether the user of the agent's name may do something everywhere.
func (a *agent) may(verb, resource string) error {
	review, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(a.t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               a.namespace,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Resource: resource},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask for access: %w", err)
	}
	if !review.Status.Allowed {
		return errNotSo
	}
	return nil
}

func TestRun_DefinitionDeletedBySomebodyElse(t *testing.T) {
	a := newAgent(t)
	definition, group := crd(a, "Gizmo")
	gizmo := fmt.Sprintf("apiVersion: %s/v1\nkind: Gizmo\nmetadata:\n  name: g\nspec:\n  size: 3\n", group)
	result, _ := a.sync(definition, gizmo)
	require.Zero(t, result.Failed)

	definitions := a.dynamic.Resource(schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
	})
	require.NoError(t, definitions.Delete(t.Context(), "gizmos."+group, metav1.DeleteOptions{}))
	testkit.Eventually(t, func() error {
		if _, err := definitions.Get(t.Context(), "gizmos."+group, metav1.GetOptions{}); err == nil {
			return errNotSo
		}
		return nil
	})
	testkit.Eventually(t, func() error {
		l := newLog()
		result, err := gitops.Run(t.Context(), a.cluster, a.project, desired(t, definition, gizmo), l)
		if err != nil || result.Failed > 0 {
			return fmt.Errorf("%w: %d failed: %+v", errors.Join(errNotSo, err), result.Failed, l.newest)
		}
		return nil
	})
	gvr := schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gizmos"}
	_, err := a.dynamic.Resource(gvr).Namespace(a.namespace).Get(t.Context(), "g", metav1.GetOptions{})
	require.NoError(t, err)
}

func TestRun_APIServerKilledInTheMiddle(t *testing.T) {
	a := newAgent(t)
	set := desired(t, docs("cm", "1", 600)...)
	l := &killer{log: newLog(), kill: plane.APIServer.Kill}

	_, err := gitops.Run(t.Context(), a.cluster, a.project, set, l)
	require.ErrorIs(t, err, gitops.ErrUnavailable)
	_, err = gitops.Run(t.Context(), a.cluster, a.project, set, newLog())
	require.ErrorIs(t, err, gitops.ErrUnavailable, "an API server that is away is not success")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, plane.APIServer.Start(ctx))
	testkit.Eventually(t, func() error {
		result, err := gitops.Run(t.Context(), a.cluster, a.project, set, newLog())
		if err == nil && result.Failed > 0 {
			return errNotSo
		}
		return err
	})
	require.Len(t, a.inventory(), 600)
}

// killer kills something after a while.
type killer struct {
	*log
	created int
	kill    func()
}

func (k *killer) Object(s gitops.ObjectStatus) {
	k.log.Object(s)
	if s.Action == gitops.ActionCreated {
		if k.created++; k.created == 100 {
			k.kill()
		}
	}
}
