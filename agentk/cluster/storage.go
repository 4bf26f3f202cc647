package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/kas-agentk/kas/inventory"
)

// storage keeps inventories in the ConfigMaps of one namespace.
type storage struct {
	configMaps corev1client.ConfigMapInterface
}

var _ inventory.Storage = (*storage)(nil)

// List implements inventory.Storage.
func (s *storage) List(ctx context.Context, id string) ([]inventory.Shard, error) {
	list, err := s.configMaps.List(ctx, metav1.ListOptions{LabelSelector: inventory.Label + "=" + id})
	if err != nil {
		return nil, explain(err)
	}
	shards := make([]inventory.Shard, 0, len(list.Items))
	for i := range list.Items {
		cm := &list.Items[i]
		shards = append(shards, inventory.Shard{Name: cm.Name, ResourceVersion: cm.ResourceVersion, Data: cm.Data})
	}
	return shards, nil
}

// Put implements inventory.Storage.
func (s *storage) Put(ctx context.Context, id string, shard inventory.Shard) (string, error) {
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name: shard.Name, ResourceVersion: shard.ResourceVersion,
			Labels: map[string]string{
				inventory.Label:                id,
				"app.kubernetes.io/managed-by": FieldManager,
			},
		},
		Data: shard.Data,
	}
	var got *corev1.ConfigMap
	var err error
	if shard.ResourceVersion == "" {
		got, err = s.configMaps.Create(ctx, cm, metav1.CreateOptions{FieldManager: FieldManager})
	} else {
		got, err = s.configMaps.Update(ctx, cm, metav1.UpdateOptions{FieldManager: FieldManager})
	}
	switch {
	case err == nil:
		return got.ResourceVersion, nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err),
		apierrors.IsNotFound(err) && shard.ResourceVersion != "":
		return "", fmt.Errorf("ConfigMap %s: %w: %w", shard.Name, inventory.ErrConflict, err)
	default:
		return "", fmt.Errorf("ConfigMap %s: %w", shard.Name, explain(err))
	}
}
