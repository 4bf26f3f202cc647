package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/gitops"
)

// explain tells an error of the API server, whose words are passed on as they are,
// from one that kept it from being asked, and says of which kind it is.
func explain(err error) error {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case errors.Is(err, gitops.ErrUnavailable), errors.Is(err, gitops.ErrNotServed), errors.Is(err, errVerbs), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &status):
		return classify(err, status.Status())
	default:
		return fmt.Errorf("%w: %w", gitops.ErrUnavailable, err)
	}
}

// classify marks what the engine decides on.
func classify(err error, status metav1.Status) error {
	seconds, asks := apierrors.SuggestsClientDelay(err)
	switch {
	case apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err),
		apierrors.IsServiceUnavailable(err) && asks:
		return &gitops.ThrottledError{RetryAfter: time.Duration(seconds) * time.Second, Err: err}
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsServiceUnavailable(err),
		// What a webhook that did not answer leads to, among others.
		apierrors.IsInternalError(err):
		return &gitops.KindError{Kind: gitops.ErrTransient, Err: err}
	case apierrors.IsNotFound(err) && status.Details != nil && status.Details.Kind == "namespaces":
		return &gitops.KindError{Kind: gitops.ErrNoNamespace, Err: err}
	case apierrors.IsNotFound(err) && !unknownResource(err):
		return &gitops.KindError{Kind: gitops.ErrNotFound, Err: err}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return &gitops.KindError{Kind: gitops.ErrNamespaceEnds, Err: err}
	}
	if fields := immutable(err, status); len(fields) > 0 {
		return &gitops.ImmutableError{Fields: fields, Err: err}
	}
	return err
}

// immutableWords are how the API server's validations say that a field cannot be
// changed: there is no code for it.
var immutableWords = []string{
	"immutable", "may not change", "may not be changed", "may not be updated",
	"cannot change", "cannot be changed", "cannot be updated", "can not be unset", "updates to ",
}

// immutable returns the fields that cannot be changed, if that is all that is wrong
// with an object: what is also wrong otherwise could not be created anew.
func immutable(err error, status metav1.Status) []string {
	if !apierrors.IsInvalid(err) || status.Details == nil {
		return nil
	}
	var fields []string
	for _, cause := range status.Details.Causes {
		words := strings.ToLower(cause.Message)
		if !slices.ContainsFunc(immutableWords, func(w string) bool { return strings.Contains(words, w) }) {
			return nil
		}
		if !slices.Contains(fields, cause.Field) {
			fields = append(fields, cause.Field)
		}
	}
	return fields
}

// unknownResource tells a path that the API server does not serve from an object
// that is not there.
func unknownResource(err error) bool {
	if !apierrors.IsNotFound(err) {
		return false
	}
	_, unexpected := apierrors.StatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
	return unexpected
}
