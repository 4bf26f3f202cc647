package agentk

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/agentk/query"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/admin"
	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestWatcher_WhatIsNotAboutProjectsFollowsTheConfiguration(t *testing.T) {
	m, err := newMetrics(admin.NewRegistry())
	require.NoError(t, err)
	var applied []*agentcfg.ClusterState
	var reached []*agentcfg.KubernetesApi
	cfg := Config{
		ApplyLogging:       func(*agentcfg.Observability) {},
		ApplyClusterState:  func(s *agentcfg.ClusterState) { applied = append(applied, s) },
		ApplyKubernetesAPI: func(k *agentcfg.KubernetesApi) { reached = append(reached, k) },
	}
	w := &watcher{log: testkit.Logger(t), link: &link{metrics: m, clock: clock.RealClock{}}, apply: cfg.apply, configs: &desired.Slot[*configuration]{}}
	state := &agentcfg.ClusterState{SecretValues: true, IdleTimeout: durationpb.New(time.Minute)}
	api := &agentcfg.KubernetesApi{Services: []*agentcfg.ProxiedService{{Namespace: "a", Name: "b"}}}
	w.take(&agentrpc.WatchResponse{Configuration: &agentcfg.ConfigurationFile{ClusterState: state, KubernetesApi: api}})
	w.take(&agentrpc.WatchResponse{Configuration: &agentcfg.ConfigurationFile{}})
	require.Equal(t, []*agentcfg.ClusterState{state, nil}, applied, "what is not said any more is as it was before")
	require.Equal(t, []*agentcfg.KubernetesApi{api, nil}, reached)
}

func TestPreloadOf_KeepsObjectsUnlessTablesAreNamed(t *testing.T) {
	log := testkit.Logger(t)
	require.Empty(t, preloadOf(log, nil))
	require.Equal(t, []query.Kept{
		{Resource: schema.GroupResource{Resource: "pods"}, Form: objects.Whole},
		{Resource: schema.GroupResource{Group: "apps", Resource: "deployments"}, Form: objects.Whole},
		{Resource: schema.GroupResource{Resource: "pods"}, Form: objects.Table},
	}, preloadOf(log, []*agentcfg.KeptResource{
		{Resource: "pods"}, {Group: "apps", Resource: "deployments", Shape: "object"}, {Resource: "pods", Shape: "table"},
	}))
	require.Len(t, preloadOf(log, make([]*agentcfg.KeptResource, maxPreload+1)), maxPreload)
}
