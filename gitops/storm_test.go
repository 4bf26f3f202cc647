package gitops_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// BenchmarkWatch_StormOfStatusUpdates has every one of 10,000 Deployments change its
// status once, as when a node that they all run on comes back: the time is what Watch
// takes for that, with the decoding of the objects, which the cache has to do anyway.
func BenchmarkWatch_StormOfStatusUpdates(b *testing.B) {
	const n = 10_000
	docs := make([]string, n)
	for i := range n {
		docs[i] = fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: app-%[1]d}, spec: {replicas: 1, progressDeadlineSeconds: 600,
		  selector: {matchLabels: {app: app-%[1]d}}, template: {metadata: {labels: {app: app-%[1]d}}, spec: {containers: [{name: main, image: "main:1"}]}}}}`, i)
	}
	w := newWorld()
	f := w.process()
	p := project()
	o := newObserver()
	result, err := gitops.Run(b.Context(), f, p, set(b, docs...), o)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	ready := make(chan bool, n)
	ended := make(chan error, 1)
	go func() {
		ended <- gitops.Watch(ctx, f, p, result, o, gitops.WatchConfig{OnReadiness: func(r gitops.Readiness) { ready <- r.Ready }})
	}()
	<-ready
	ids := make([]inventory.ID, n)
	for i := range ids {
		ids[i] = inventory.ID{GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, Namespace: "default", Name: fmt.Sprintf("app-%d", i)}
	}
	replicas := int64(0)
	for b.Loop() {
		replicas = 1 - replicas
		began := time.Now()
		for _, id := range ids {
			rollQuietly(b, w, id, replicas)
		}
		made := time.Since(began)
		for <-ready != (replicas == 1) {
		}
		b.ReportMetric(float64(made.Milliseconds()), "ms-to-make")
	}
	cancel()
	require.NoError(b, <-ended)
}

// rollQuietly gives a Deployment a status.
func rollQuietly(tb testing.TB, w *world, id inventory.ID, replicas int64) {
	tb.Helper()
	live, _ := w.Live(id)
	u := live.Object.Unstructured()
	require.NoError(tb, unstructured.SetNestedMap(u.Object, map[string]any{
		"replicas": int64(1), "updatedReplicas": int64(1), "readyReplicas": replicas, "availableReplicas": replicas,
		"conditions": []any{
			map[string]any{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
			map[string]any{"type": "Available", "status": "True"},
		},
	}, "status"))
	w.put(u, live.Ownership, false)
}
