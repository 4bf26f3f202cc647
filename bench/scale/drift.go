package scale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Drift is how long foreign edits lasted: from the API server's answer to the editor
// until a watch shows the manifest's value again.
type Drift struct {
	Edits int     `json:"edits"`
	P50ms float64 `json:"p50_ms"`
	P99ms float64 `json:"p99_ms"`
	MaxMs float64 `json:"max_ms"`
	// Error: why there are no figures.
	Error string `json:"error,omitempty"`
}

const (
	foreign = "foreign"
	// driftPatience is how long all edits together may last.
	driftPatience = time.Minute
)

func (r *rig) drift(ctx context.Context, f *Figures) error {
	if r.cfg.DriftEdits == 0 {
		return nil
	}
	edits, cancel := context.WithTimeout(ctx, driftPatience)
	defer cancel()
	var err error
	if f.Drift, err = r.edit(edits); err != nil && ctx.Err() == nil {
		f.Drift, err = &Drift{Error: err.Error()}, nil
	}
	return err
}

// edit makes all edits, one after another.
func (r *rig) edit(ctx context.Context) (*Drift, error) {
	client, err := kubernetes.NewForConfig(r.cfg.Plane.REST)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	w, err := client.CoreV1().ConfigMaps(r.prefix).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch ConfigMaps: %w", err)
	}
	defer w.Stop()
	took := make([]time.Duration, 0, r.cfg.DriftEdits)
	for i := range r.cfg.DriftEdits {
		// Each edit is of another object: one that is edited again and again is a fight.
		name := r.set[i*len(r.set)/r.cfg.DriftEdits].Name
		patch := fmt.Appendf(nil, `{"data":{"key":%q}}`, foreign)
		_, err := client.CoreV1().ConfigMaps(r.prefix).Patch(ctx, name, types.MergePatchType, patch,
			metav1.PatchOptions{FieldManager: "bench-foreign"})
		edited := time.Now()
		if err != nil {
			return nil, fmt.Errorf("edit ConfigMap %s: %w", name, err)
		}
		healed, err := awaitHealed(ctx, w.ResultChan(), name)
		if err != nil {
			return nil, err
		}
		took = append(took, healed.Sub(edited))
	}
	slices.Sort(took)
	at := func(percent int) float64 {
		return float64(took[(len(took)-1)*percent/100].Microseconds()) / 1000
	}
	return &Drift{Edits: len(took), P50ms: at(50), P99ms: at(99), MaxMs: at(100)}, nil
}

var errWatch = errors.New("the watch has ended")

// awaitHealed reads events until the object shows the foreign value and then another.
func awaitHealed(ctx context.Context, events <-chan watch.Event, name string) (time.Time, error) {
	edited := false
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return time.Time{}, errWatch
			}
			cm, ok := e.Object.(*corev1.ConfigMap)
			if !ok || cm.Name != name {
				continue
			}
			if cm.Data["key"] == foreign {
				edited = true
			} else if edited {
				return time.Now(), nil
			}
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for ConfigMap %s to be healed: %w", name, ctx.Err())
		}
	}
}
