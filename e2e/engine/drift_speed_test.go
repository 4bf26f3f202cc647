package engine_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"
)

// TestWatch_DriftIsHealedInNoTime measures from the response to a foreign edit to the
// healed value, as a watch shows it, with few and with many managed objects.
func TestWatch_DriftIsHealedInNoTime(t *testing.T) {
	const edits = 100
	for _, n := range []int{edits, 10_000} {
		if n > edits && testing.Short() {
			continue
		}
		t.Run(fmt.Sprintf("of %d objects", n), func(t *testing.T) {
			a := newAgent(t)
			k := keep(t, a, docs("cm", "1", n)...)
			seen, err := a.client.CoreV1().ConfigMaps(a.namespace).Watch(t.Context(), metav1.ListOptions{})
			require.NoError(t, err)
			defer seen.Stop()
			took := make([]time.Duration, 0, edits)
			for i := range edits {
				// Another object each time: the third heal of one is put off.
				name := fmt.Sprintf("cm-%05d", i*n/edits)
				a.edit(t, name, "kubectl-edit", `{"data":{"key":"foreign"}}`)
				edited := time.Now()
				awaitHealed(t, seen, name)
				took = append(took, time.Since(edited))
				<-k.healed
			}
			slices.Sort(took)
			t.Logf("drift healed: p50 %s, p99 %s", took[edits/2], took[edits*99/100])
			// The budget is 25 ms. A machine that does much else gets some more.
			require.Less(t, took[edits/2], 100*time.Millisecond)
		})
	}
}

// awaitHealed waits until the watch has shown the foreign value and then ours.
func awaitHealed(t *testing.T, w apiwatch.Interface, name string) {
	t.Helper()
	foreign := false
	for e := range w.ResultChan() {
		cm, ok := e.Object.(*corev1.ConfigMap)
		if !ok || cm.Name != name {
			continue
		}
		if foreign = foreign || cm.Data["key"] == "foreign"; foreign && cm.Data["key"] == "1" {
			return
		}
	}
	t.Fatal("the watch has ended")
}
