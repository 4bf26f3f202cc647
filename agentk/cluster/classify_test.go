package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
)

var errBoom = errors.New("boom")

// namespaceEnds is what the API server answers while it deletes a namespace.
func namespaceEnds() error {
	err := apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "a", errBoom)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause, Field: "metadata.namespace"}}
	return err
}

func TestExplain_SaysWhichKindOfErrorItIs(t *testing.T) {
	service := schema.GroupResource{Resource: "services"}
	kind := schema.GroupKind{Kind: "Service"}
	path := field.NewPath("spec")
	for _, row := range []struct {
		name string
		err  error
		want error
	}{
		{"too many requests", apierrors.NewTooManyRequests("slow down", 3), gitops.ErrThrottled},
		{"a server timeout", apierrors.NewServerTimeout(service, "patch", 3), gitops.ErrThrottled},
		{"a timeout", apierrors.NewTimeoutError("took too long", 3), gitops.ErrThrottled},
		{"unavailable, without saying for how long", apierrors.NewServiceUnavailable("down"), gitops.ErrTransient},
		{"a conflict", apierrors.NewConflict(service, "a", errBoom), gitops.ErrTransient},
		{"an internal error", apierrors.NewInternalError(errBoom), gitops.ErrTransient},
		{"a namespace that is not there", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "n"), gitops.ErrNoNamespace},
		{"an object that is not there", apierrors.NewNotFound(service, "a"), gitops.ErrNotFound},
		{"a namespace that is being deleted", namespaceEnds(), gitops.ErrNamespaceEnds},
		{
			"a field that cannot be changed",
			apierrors.NewInvalid(kind, "a", field.ErrorList{field.Invalid(path.Child("clusterIP"), "", "field is immutable")}), gitops.ErrImmutable,
		},
		{"no answer", errBoom, gitops.ErrUnavailable},
		{"a deadline", context.DeadlineExceeded, gitops.ErrUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := explain(row.err)
			for _, kind := range []error{
				gitops.ErrThrottled, gitops.ErrTransient, gitops.ErrNotFound, gitops.ErrNoNamespace, gitops.ErrNamespaceEnds, gitops.ErrImmutable, gitops.ErrUnavailable,
			} {
				require.Equal(t, errors.Is(row.want, kind), errors.Is(got, kind), "%v", kind)
			}
			require.ErrorIs(t, got, row.err)
			require.Contains(t, got.Error(), row.err.Error())
		})
	}
	for _, err := range []error{
		apierrors.NewForbidden(service, "a", errBoom), apierrors.NewBadRequest("boom"),
		apierrors.NewInvalid(kind, "a", field.ErrorList{
			field.Invalid(path.Child("clusterIP"), "", "field is immutable"), field.Required(path.Child("ports"), ""),
		}),
	} {
		require.Equal(t, err, explain(err), "about this object alone, and for good")
	}
}

func TestExplain_NamesTheFieldsThatCannotBeChanged(t *testing.T) {
	path := field.NewPath("spec")
	var immutable *gitops.ImmutableError
	require.ErrorAs(t, explain(apierrors.NewInvalid(schema.GroupKind{Kind: "X"}, "a", field.ErrorList{
		field.Invalid(path.Child("selector"), "", "field is immutable"),
		field.Forbidden(path, "updates to statefulset spec for fields other than 'replicas' are forbidden"),
		field.Invalid(path.Child("selector"), "", "may not change once set"),
	})), &immutable)
	require.Equal(t, []string{"spec.selector", "spec"}, immutable.Fields)
}

func TestImpatient_RequestIsSentOnceAndTheErrorSaysHowLongToWait(t *testing.T) {
	for _, row := range []struct {
		name, contentType, body string
		status                  int
		want                    time.Duration
	}{
		{"plain text", "text/plain; charset=utf-8", "Too many requests, please try again later.\n", http.StatusTooManyRequests, 7 * time.Second},
		{
			"a Status", "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"slow down",
				"reason":"TooManyRequests","code":429,"details":{"retryAfterSeconds":5}}`, http.StatusTooManyRequests, 5 * time.Second,
		},
		{"a gateway", "text/html", "<h1>busy</h1>", http.StatusServiceUnavailable, 7 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests++
				w.Header().Set("Content-Type", row.contentType)
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(row.status)
				fmt.Fprint(w, row.body)
			}))
			defer server.Close()
			client, err := metadata.NewForConfigAndClient(&rest.Config{Host: server.URL, QPS: -1},
				&http.Client{Transport: impatient{next: http.DefaultTransport}})
			require.NoError(t, err)
			_, err = client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("n").
				Get(t.Context(), "a", metav1.GetOptions{})
			var throttled *gitops.ThrottledError
			require.ErrorAs(t, explain(err), &throttled)
			require.Equal(t, row.want, throttled.RetryAfter)
			require.Equal(t, 1, requests)
			http.DefaultTransport.(*http.Transport).CloseIdleConnections() //nolint:forcetypeassert // it is one
		})
	}
}
