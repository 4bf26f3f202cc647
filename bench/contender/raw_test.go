package contender

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/bench/objects"
)

func TestPath_IsWhereTheAPIServerHasTheObject(t *testing.T) {
	for want, o := range map[string]objects.Object{
		"/api/v1/namespaces/n/configmaps/c":                               {APIVersion: "v1", Kind: "ConfigMap", Namespace: "n", Name: "c"},
		"/apis/apps/v1/namespaces/n/deployments/d":                        {APIVersion: "apps/v1", Kind: "Deployment", Namespace: "n", Name: "d"},
		"/api/v1/namespaces/n":                                            {APIVersion: "v1", Kind: "Namespace", Name: "n"},
		"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/x.e.com": {APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition", Name: "x.e.com"},
	} {
		require.Equal(t, want, path(&o))
	}
}

func TestStages_PutWhatOthersNeedFirst(t *testing.T) {
	set, err := objects.Mixed(500).Make("x", 0)
	require.NoError(t, err)
	got := stages(set)
	require.Equal(t, "CustomResourceDefinition", got[0][0].Kind)
	require.Equal(t, "Namespace", got[1][0].Kind)
	require.Len(t, got[2], len(set)-len(got[0])-len(got[1]))
}

func TestChanged_IsOneObjectInAHundred(t *testing.T) {
	before, err := objects.Deployments(300).Make("x", 0)
	require.NoError(t, err)
	after, err := objects.Deployments(300).Make("x", 1)
	require.NoError(t, err)
	require.Len(t, changed(before, after), 3)
	require.Empty(t, changed(after, after))
}

func TestMemory_ReadsThisProcess(t *testing.T) {
	now, err := Memory(1, "VmRSS")
	require.NoError(t, err)
	require.Positive(t, now)
	_, err = Memory(1, "VmNothing")
	require.ErrorIs(t, err, errNoField)
}
