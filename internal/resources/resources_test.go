package resources_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/resources"
)

func TestParse_ReadsWhatPeopleWrite(t *testing.T) {
	for _, row := range []struct {
		name, text string
		want       resources.Name
		shown      string
	}{
		{"a core resource", "pods", resources.Name{Resource: "pods"}, "pods"},
		{"the singular", "pod", resources.Name{Resource: "pods"}, "pods"},
		{"the kind", "Deployment", resources.Name{Group: "apps", Resource: "deployments"}, "deployments.apps"},
		{"a short name", "netpol", resources.Name{Group: "networking.k8s.io", Resource: "networkpolicies"}, "networkpolicies.networking.k8s.io"},
		{"a short name with its group", "deploy.apps", resources.Name{Group: "apps", Resource: "deployments"}, "deployments.apps"},
		{"events are those of the core group", "ev", resources.Name{Resource: "events"}, "events"},
		{"unless another is named", "ev.events.k8s.io", resources.Name{Group: "events.k8s.io", Resource: "events"}, "events.events.k8s.io"},
		{"a version of a group", "deployments.v1.apps", resources.Name{Group: "apps", Version: "v1", Resource: "deployments"}, "deployments.v1.apps"},
		{"a version of the core group", "pods.v1", resources.Name{Version: "v1", Resource: "pods"}, "pods.v1."},
		{"as kubectl has it", "po.v1.", resources.Name{Version: "v1", Resource: "pods"}, "pods.v1."},
		{"a custom resource", "widgets.example.com", resources.Name{Group: "example.com", Resource: "widgets"}, "widgets.example.com"},
		{"a custom resource that is called like a short name", "po.example.com", resources.Name{Group: "example.com", Resource: "po"}, "po.example.com"},
		{"one that nobody knows", "widgets", resources.Name{Resource: "widgets"}, "widgets"},
		{"a version of one that nobody knows", "widgets.v1beta1.example.com", resources.Name{Group: "example.com", Version: "v1beta1", Resource: "widgets"}, "widgets.v1beta1.example.com"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := resources.Parse(row.text)
			require.NoError(t, err)
			require.Equal(t, row.want, got)
			require.Equal(t, row.shown, got.String())
			again, err := resources.Parse(got.String())
			require.NoError(t, err)
			require.Equal(t, got, again, "what is shown can be read")
		})
	}
}

func TestParse_RefusesWhatIsNoName(t *testing.T) {
	for _, text := range []string{"", " ", "pods/log", "../secrets", "pods.a b", ".apps", "a..b.", "-", "p\x00ds", strings.Repeat("a", 400)} {
		_, err := resources.Parse(text)
		require.ErrorContains(t, err, "does not name a resource", "%q", text)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"po", "deploy.apps", "pods.v1.", "widgets.v1beta1.example.com", "A.b", "../x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := resources.Parse(text)
		if err != nil {
			return
		}
		again, err := resources.Parse(n.String())
		if err != nil || again != n {
			t.Errorf("%q is %q, and that is %q, %v", text, n, again, err)
		}
	})
}

func TestCommon_AreKnown(t *testing.T) {
	for _, name := range resources.Common() {
		n, err := resources.Parse(name)
		require.NoError(t, err)
		require.True(t, n.Known(), name)
		require.Equal(t, name, n.Resource)
		require.Contains(t, resources.Plurals(), name)
	}
	require.True(t, resources.Name{Resource: "nodes"}.ClusterScoped())
	require.False(t, resources.Name{Resource: "pods"}.ClusterScoped())
	require.False(t, resources.Name{Group: "example.com", Resource: "nodes"}.Known())
}
