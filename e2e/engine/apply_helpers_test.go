package engine_test

import (
	"context"
	"sync"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// watch watches what a run left behind until the test ends.
func (a *agent) watch(result gitops.Result, o gitops.Observer) <-chan gitops.Readiness {
	a.t.Helper()
	told := make(chan gitops.Readiness, 1000)
	ctx, cancel := context.WithCancel(a.t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		err := gitops.Watch(ctx, a.cluster, a.project, result, o, gitops.WatchConfig{
			OnReadiness: func(r gitops.Readiness) { told <- r },
		})
		if err != nil {
			a.t.Errorf("watch: %v", err)
		}
	})
	a.t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return told
}

// refuseBy has the API server ask a webhook about ConfigMaps in the agent's namespace
// that are no inventory, until the test ends.
func (a *agent) refuseBy(url string) {
	a.t.Helper()
	fail, none := admissionv1.Fail, admissionv1.SideEffectClassNone
	hooks := a.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := hooks.Create(a.t.Context(), &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "hook.example.com", FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig:      admissionv1.WebhookClientConfig{URL: &url},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": a.namespace}},
			ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: inventory.Label, Operator: metav1.LabelSelectorOpDoesNotExist},
			}},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
		}},
	}, metav1.CreateOptions{})
	require.NoError(a.t, err)
	a.t.Cleanup(func() {
		_ = hooks.Delete(context.WithoutCancel(a.t.Context()), a.namespace, metav1.DeleteOptions{})
	})
}
