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

// metadataOnly asks for no more of an object than its metadata.
const metadataOnly = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1," +
	"application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// storage keeps inventories in the ConfigMaps of one namespace.
type storage struct {
	client    corev1client.CoreV1Interface
	namespace string
}

var _ inventory.Storage = (*storage)(nil)

// List implements inventory.Storage.
func (s *storage) List(ctx context.Context, id string) ([]inventory.Shard, error) {
	list, err := s.client.ConfigMaps(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: inventory.Label + "=" + id})
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

// Put implements inventory.Storage. A write of a full shard costs the API server half
// as long where it need neither keep the books of who manages which of its keys, which
// nobody asks for, nor return them all.
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
	request := s.client.RESTClient().Post()
	if shard.ResourceVersion != "" {
		cm.ManagedFields = []metav1.ManagedFieldsEntry{{}} // which has the API server drop them
		request = s.client.RESTClient().Put().Name(shard.Name)
	}
	var got metav1.PartialObjectMetadata
	err := request.Namespace(s.namespace).Resource("configmaps").Param("fieldManager", FieldManager).
		SetHeader("Accept", metadataOnly).Body(cm).Do(ctx).Into(&got)
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
