package agentk

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/agentk/cluster"
)

// Keys of the ConfigMap that holds Controls.
const (
	keySuspendedBy    = "suspended-by"
	keySuspendedAt    = "suspended-at"
	keyApprovedCommit = "approved-commit"
	keyApprovedBy     = "approved-by"
)

// configMapControls is a ControlStore in ConfigMaps of agentk's own namespace, one for
// each project about which something is decided.
type configMapControls struct {
	configMaps corev1client.ConfigMapInterface
}

var _ ControlStore = (*configMapControls)(nil)

func newConfigMapControls(restConfig *rest.Config, namespace string) (*configMapControls, error) {
	client, err := clientset.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return &configMapControls{configMaps: client.CoreV1().ConfigMaps(namespace)}, nil
}

func controlsName(key string) string { return "agentk-controls-" + key }

// LoadControls implements ControlStore.
func (s *configMapControls) LoadControls(ctx context.Context, key string) (Controls, error) {
	cm, err := s.configMaps.Get(ctx, controlsName(key), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return Controls{}, nil
	case err != nil:
		return Controls{}, fmt.Errorf("ConfigMap %s: %w", controlsName(key), err)
	}
	c := Controls{
		SuspendedBy:    cm.Data[keySuspendedBy],
		ApprovedCommit: cm.Data[keyApprovedCommit],
		ApprovedBy:     cm.Data[keyApprovedBy],
	}
	// When is for people only: a time that cannot be read keeps nothing from being
	// suspended.
	if at, err := time.Parse(time.RFC3339, cm.Data[keySuspendedAt]); err == nil {
		c.SuspendedAt = at.UTC()
	}
	return c, nil
}

// SaveControls implements ControlStore. Only the leader calls it, so that nobody is
// overwritten.
func (s *configMapControls) SaveControls(ctx context.Context, key string, c Controls) error {
	name := controlsName(key)
	if c == (Controls{}) {
		if err := s.configMaps.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("ConfigMap %s: %w", name, err)
		}
		return nil
	}
	data := map[string]string{}
	for k, v := range map[string]string{keySuspendedBy: c.SuspendedBy, keyApprovedCommit: c.ApprovedCommit, keyApprovedBy: c.ApprovedBy} {
		if v != "" {
			data[k] = v
		}
	}
	if !c.SuspendedAt.IsZero() {
		data[keySuspendedAt] = c.SuspendedAt.UTC().Format(time.RFC3339)
	}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": cluster.FieldManager}},
		Data:       data,
	}
	_, err := s.configMaps.Update(ctx, cm, metav1.UpdateOptions{FieldManager: cluster.FieldManager})
	if apierrors.IsNotFound(err) {
		_, err = s.configMaps.Create(ctx, cm, metav1.CreateOptions{FieldManager: cluster.FieldManager})
	}
	if err != nil {
		return fmt.Errorf("ConfigMap %s: %w", name, err)
	}
	return nil
}
