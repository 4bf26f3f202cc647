package query

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
)

// invalid says what is wrong with a question.
func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// explain says why there is no View of a resource, and what to do about it.
func explain(ctx context.Context, gvr schema.GroupVersionResource, err error) error {
	name := resourceName(gvr)
	var said interface{ GRPCStatus() *status.Status }
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.As(err, &said):
		return said.GRPCStatus().Err()
	case apierrors.IsForbidden(err):
		return status.Errorf(codes.PermissionDenied,
			"agentk's service account may not list and watch %s: grant it both verbs on them in all namespaces, by a ClusterRole: %v", name, err)
	case errors.Is(err, gitops.ErrNotServed), apierrors.IsNotFound(err):
		return status.Errorf(codes.NotFound,
			"the API server of the cluster serves no %s: check group, version and plural, and that its CustomResourceDefinition is installed", described(gvr))
	case apierrors.IsMethodNotSupported(err):
		return invalid("%s cannot be listed and watched: %v", name, err)
	default:
		return status.Errorf(codes.Unavailable, "the API server of the cluster cannot be asked for %s, and nothing is known of them yet: %v", name, err)
	}
}

// resourceName is how kubectl names a resource: deployments.apps.
func resourceName(gvr schema.GroupVersionResource) string { return gvr.GroupResource().String() }

// described names a resource with its version.
func described(gvr schema.GroupVersionResource) string {
	if gvr.Version == "" {
		return resourceName(gvr)
	}
	return resourceName(gvr) + " in version " + gvr.Version
}
