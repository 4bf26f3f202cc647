package engine_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
)

func taking(name, source, path string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata:
  name: %s
  annotations:
    config.kubernetes.io/apply-time-mutation: |
      - sourceRef: {%s}
        sourcePath: %s
        targetPath: $.data.key
        token: ${value}
data:
  key: "it is ${value}"
`, name, source, path)
}

func TestRun_ValuesOfOtherObjectsArePutInPlace(t *testing.T) {
	a := newAgent(t)
	service := "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc\nspec:\n  ports: [{port: 80}]\n"
	ip := taking("ip", "kind: Service, name: svc", "$.spec.clusterIP")
	copied := taking("copied", "kind: ConfigMap, name: source", "$.data.key")

	result, l := a.sync(ip, copied, service, configMap("source", "1"))
	require.Zero(t, result.Failed, "%+v", l.newest)
	svc, err := a.client.CoreV1().Services(a.namespace).Get(t.Context(), "svc", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "it is "+svc.Spec.ClusterIP, a.data("ip")["key"])
	require.Equal(t, "it is 1", a.data("copied")["key"])

	a.restart()
	_, l = a.sync(ip, copied, service, configMap("source", "1")) // lists first
	require.Equal(t, gitops.ActionUnchanged, l.get("ConfigMap/ip").Action)
	require.Equal(t, gitops.ActionUnchanged, l.get("ConfigMap/copied").Action)
	a.requests.reset()
	a.sync(ip, copied, service, configMap("source", "1"))
	require.Zero(t, a.requests.writes.Load()+a.requests.reads.Load())

	_, l = a.sync(ip, copied, service, configMap("source", "2"))
	require.Equal(t, gitops.ActionConfigured, l.get("ConfigMap/copied").Action)
	require.Equal(t, gitops.ActionUnchanged, l.get("ConfigMap/ip").Action)
	require.Equal(t, "it is 2", a.data("copied")["key"])
}

func TestRun_SourceOutsideOfTheProjectOnlyHasToExist(t *testing.T) {
	a := newAgent(t)
	target := taking("target", "kind: ConfigMap, name: foreign", "$.data.key")
	result, l := a.sync(target)
	require.Equal(t, 1, result.Failed)
	require.Contains(t, l.get("ConfigMap/target").Message, `configmaps "foreign" not found`)

	foreign := func(value string) {
		_, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(t.Context(), "foreign", types.ApplyPatchType,
			[]byte(configMap("foreign", value)), metav1.PatchOptions{FieldManager: "somebody"})
		require.NoError(t, err)
	}
	foreign("1")
	result, _ = a.sync(target)
	require.Zero(t, result.Failed)
	require.Equal(t, "it is 1", a.data("target")["key"])

	// It changes, and Watch says that it is time for another run.
	l = newLog()
	result, err := gitops.Run(t.Context(), a.cluster, a.project, desired(t, target), l)
	require.NoError(t, err)
	readiness := a.watch(result, l)
	require.Empty(t, (<-readiness).Drifted)
	foreign("2")
	for now := range readiness {
		if len(now.Drifted) > 0 {
			break
		}
	}
	result, _ = a.sync(target)
	require.Zero(t, result.Failed)
	require.Equal(t, "it is 2", a.data("target")["key"])
}

func TestRun_DefinitionOfSomebodyElseIsNoticed(t *testing.T) {
	a := newAgent(t)
	definition, group := crd(a, "Late")
	late := fmt.Sprintf("apiVersion: %s/v1\nkind: Late\nmetadata:\n  name: l\nspec:\n  size: 3\n", group)
	l := newLog()
	result, err := gitops.Run(t.Context(), a.cluster, a.project, desired(t, late), l)
	require.NoError(t, err)
	require.Equal(t, 1, result.Failed)
	readiness := a.watch(result, l)
	require.False(t, (<-readiness).Retry)

	other := newAgent(t)
	_, ol := other.sync(definition)
	require.Equal(t, gitops.ActionCreated, ol.get("CustomResourceDefinition/lates."+group).Action)
	for now := range readiness {
		if now.Retry {
			break
		}
	}
	result, l = a.sync(late)
	require.Zero(t, result.Failed, "%+v", l.newest)
	require.Equal(t, gitops.ActionCreated, l.get("Late/l").Action)
}

func TestWatch_VersionThatIsNotServedAnyMoreIsNoticed(t *testing.T) {
	a, other := newAgent(t), newAgent(t)
	definition, group := crd(a, "Old")
	at, next, ok := strings.Cut(definition, "  - name: v1\n")
	require.True(t, ok)
	both := at + "  - name: v1\n" + next + "  - name: v2\n" + strings.Replace(next, "storage: true", "storage: false", 1)
	other.sync(both)
	old := fmt.Sprintf("apiVersion: %s/v1\nkind: Old\nmetadata:\n  name: o\nspec:\n  size: 3\n", group)
	// A definition is established some time before, and after, what it serves is served.
	var result gitops.Result
	var l *log
	eventually := func(doc string, failed int) {
		t.Helper()
		testkit.Eventually(t, func() error {
			if result, l = a.sync(doc); result.Failed != failed {
				return fmt.Errorf("%w: %+v", errNotSo, l.newest)
			}
			return nil
		})
	}
	eventually(old, 0)
	readiness := a.watch(result, l)
	require.False(t, (<-readiness).Retry)

	other.sync(strings.Replace(both, "served: true", "served: false", 1))
	for now := range readiness {
		if now.Retry {
			break
		}
	}
	eventually(old, 1)
	require.Contains(t, l.get("Old/o").Message, `no matches for kind "Old" in version`)
	eventually(strings.Replace(old, "/v1", "/v2", 1), 0)
}

func TestRun_ErrorOfASecretIsMasked(t *testing.T) {
	a := newAgent(t)
	doc := func(data string) string {
		return "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n" + data
	}
	for _, row := range []struct{ name, data, value string }{
		{"data that is not base64", "data:\n  key: not-base64-hunter22!\n", "hunter22"},
		{"a number for a text", "data:\n  key: 1234567\n", "1234567"},
		{"a map for a text", "stringData:\n  key: {deep: hunter22}\n", "hunter22"},
		{"a list for a map", "stringData: [hunter22]\n", "hunter22"},
	} {
		t.Run(row.name, func(t *testing.T) {
			// What the API server says when nobody masks it.
			u := desired(t, doc(row.data)).Set.Objects[0].JSON
			_, plain := a.client.CoreV1().Secrets(a.namespace).Patch(t.Context(), "s", types.ApplyPatchType, u,
				metav1.PatchOptions{FieldManager: "somebody"})
			require.Error(t, plain)
			t.Logf("unmasked: %v", plain)

			result, l := a.sync(doc(row.data))
			require.Equal(t, 1, result.Failed)
			require.NotContains(t, l.get("Secret/s").Message, row.value)
			require.NotContains(t, l.get("Secret/s").Message, base64.StdEncoding.EncodeToString([]byte(row.value)))
			t.Logf("masked: %s", l.get("Secret/s").Message)
		})
	}
}

func TestRun_WebhookThatIsNotThereIsTriedAgain(t *testing.T) {
	a := newAgent(t)
	var posts int
	rc := *server
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPatch {
				posts++
			}
			return next.RoundTrip(r)
		})
	})
	a.stop()
	a.start(&rc)
	a.refuseBy("https://127.0.0.1:1/nobody-is-here")
	result, l := a.sync(configMap("hooked", "1"))
	require.Equal(t, 1, result.Failed)
	require.Contains(t, l.get("ConfigMap/hooked").Message, "failed calling webhook")
	require.Equal(t, 3, posts, "once, and twice again")
}
