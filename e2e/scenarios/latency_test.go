package scenarios

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/e2e/harness"
)

// BenchmarkPushToCluster measures how long one changed manifest of 1,000 takes from
// the end of "git push" until a watch of the API server shows it. Run it with
//
//	E2E_RACE=0 E2E_POLL_PERIOD=1s go test -run '^$' -bench PushToCluster -benchtime 20x ./e2e/scenarios
func BenchmarkPushToCluster(b *testing.B) {
	const files = 1000
	f := env.New(b)
	for i := range files {
		name := fmt.Sprintf("cm-%04d", i)
		f.Manifests.Write("many/"+name+".yaml", harness.ConfigMap(name, "first"))
	}
	f.WaitSynced(f.Manifests.Push("Create many"))
	watch, err := f.Kube.CoreV1().ConfigMaps(f.Name).Watch(b.Context(), metav1.ListOptions{FieldSelector: "metadata.name=cm-0500"})
	if err != nil {
		b.Fatal(err)
	}
	defer watch.Stop()

	var after, whole []time.Duration
	round := 0
	for b.Loop() {
		round++
		value := fmt.Sprintf("round %d", round)
		f.Manifests.Write("many/cm-0500.yaml", harness.ConfigMap("cm-0500", value))
		f.Manifests.Git("commit", "--quiet", "--all", "--message", value)
		begun := time.Now()
		f.Manifests.Git("push", "--quiet", "origin", "HEAD")
		pushed := time.Now()
		for event := range watch.ResultChan() {
			if cm, ok := event.Object.(*corev1.ConfigMap); ok && cm.Data["key"] == value {
				break
			}
		}
		after = append(after, time.Since(pushed))
		whole = append(whole, time.Since(begun))
	}
	report(b, "after-push", after)
	report(b, "with-push", whole)
}

func report(b *testing.B, name string, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	at := func(part float64) float64 {
		return float64(took[min(len(took)-1, int(part*float64(len(took))))]) / float64(time.Millisecond)
	}
	b.ReportMetric(at(0.5), name+"-p50-ms")
	b.ReportMetric(at(0.99), name+"-p99-ms")
}
