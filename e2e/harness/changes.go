package harness

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Changes counts, from now on, how often each ConfigMap of the fixture's namespace
// is written: made, changed or deleted. The function it returns gives the counts so
// far by name; names that nobody wrote to are not in it.
func (f *Fixture) Changes() (counts func() map[string]int) {
	f.T.Helper()
	maps := f.Kube.CoreV1().ConfigMaps(f.Name)
	list, err := maps.List(f.T.Context(), metav1.ListOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	w, err := maps.Watch(context.WithoutCancel(f.T.Context()), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(w.Stop)
	seen := map[string]int{}
	marks := 0
	return func() map[string]int {
		f.T.Helper()
		// Events come in order: when this one is here, so are all before it.
		marks++
		mark := fmt.Sprintf("mark-%d", marks)
		_, err := maps.Create(f.T.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: mark}}, metav1.CreateOptions{})
		if err != nil {
			f.T.Fatal(err)
		}
		for event := range w.ResultChan() {
			cm, ok := event.Object.(*corev1.ConfigMap)
			switch {
			case !ok || event.Type == watch.Error:
				f.T.Fatalf("watch of ConfigMaps: %v", event.Object)
			case cm.Name == mark:
				return seen
			case event.Type == watch.Modified && cm.DeletionTimestamp != nil: // DELETED follows
			default:
				seen[cm.Name]++
			}
		}
		f.T.Fatal("the watch of ConfigMaps ended")
		return nil
	}
}
