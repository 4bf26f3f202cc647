package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// markPrefix begins the names of ConfigMaps that only mark a moment.
const markPrefix = "mark-"

// Changes counts, from now on, how often each ConfigMap of the fixture's namespace
// is written: made, changed or deleted. The function it returns gives the counts so
// far by name; names that nobody wrote to are not in it.
func (f *Fixture) Changes() (counts func() map[string]int) {
	f.T.Helper()
	configMaps := f.Kube.CoreV1().ConfigMaps(f.Name)
	list, err := configMaps.List(f.T.Context(), metav1.ListOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	// A busy API server ends watches, which then go on where they were.
	w, err := toolswatch.NewRetryWatcherWithContext(context.WithoutCancel(f.T.Context()), list.ResourceVersion,
		&cache.ListWatch{WatchFuncWithContext: configMaps.Watch})
	if err != nil {
		f.T.Fatal(err)
	}
	t := &tally{seen: map[string]int{}}
	var wg sync.WaitGroup
	wg.Go(func() { t.read(w) }) // all the time: the API server ends a watch that is not read
	f.T.Cleanup(func() {
		w.Stop()
		wg.Wait()
	})
	marks := 0
	return func() map[string]int {
		f.T.Helper()
		// Events come in order: when this one is here, so are all before it.
		marks++
		mark := fmt.Sprintf("%s%d", markPrefix, marks)
		_, err := configMaps.Create(f.T.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: mark}}, metav1.CreateOptions{})
		if err != nil {
			f.T.Fatal(err)
		}
		f.Eventually(func() error { return t.has(mark) })
		return t.counts()
	}
}

// tally of what a watch tells.
type tally struct {
	mu   sync.Mutex
	seen map[string]int
	// ended says why there will be no more.
	ended error
}

// read takes events until the watch ends.
func (t *tally) read(w watch.Interface) {
	err := errors.New("the watch of ConfigMaps ended")
	for event := range w.ResultChan() {
		cm, ok := event.Object.(*corev1.ConfigMap)
		switch {
		case !ok || event.Type == watch.Error:
			err = fmt.Errorf("watch of ConfigMaps: %v", event.Object)
		case event.Type == watch.Modified && cm.DeletionTimestamp != nil: // DELETED follows
		default:
			t.mu.Lock()
			t.seen[cm.Name]++
			t.mu.Unlock()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = err
}

// has is an error until there is a change of that name.
func (t *tally) has(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.seen[name] > 0:
		return nil
	case t.ended != nil:
		return t.ended
	}
	return fmt.Errorf("no change of %s yet", name)
}

// counts of all names but those of marks.
func (t *tally) counts() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := maps.Clone(t.seen)
	maps.DeleteFunc(counts, func(name string, _ int) bool { return strings.HasPrefix(name, markPrefix) })
	return counts
}
