package gitaly_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/kas/gitaly"
)

func TestPool_SendsCredentialsAndFeatures(t *testing.T) {
	f := newFake()
	c := gitaly.NewContent(gitaly.ContentConfig{}, f.serve(t, gitaly.PoolConfig{UserAgent: "kas/1"}), prometheus.NewRegistry())
	id := f.commit("refs/heads/main", "one", nil)
	r := repo
	r.Server.Features = map[string]string{"gitaly-feature-x": "true", "y": "false"}
	_, err := c.Files(t.Context(), r, id)
	require.NoError(t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Len(t, f.metadata.Get("authorization"), 1)
	assert.True(t, strings.HasPrefix(f.metadata.Get("authorization")[0], "Bearer v2."), "the secret itself does not travel")
	assert.Equal(t, []string{"true"}, f.metadata.Get("gitaly-feature-x"))
	assert.Equal(t, []string{"false"}, f.metadata.Get("gitaly-feature-y"))
	assert.True(t, strings.HasPrefix(f.metadata.Get("user-agent")[0], "kas/1 "))
}

func TestPool_Addresses(t *testing.T) {
	f := newFake()
	id := f.commit("refs/heads/main", "one", nil)
	c := gitaly.NewContent(gitaly.ContentConfig{}, f.serve(t, gitaly.PoolConfig{}), prometheus.NewRegistry())
	for address, good := range map[string]bool{
		"unix:/run/gitaly.sock": true, "unix:///run/gitaly.sock": true, "tcp://127.0.0.1:8075": true,
		"": false, "127.0.0.1:8075": false, "http://gitaly": false, "tcp://": false, "unix:": false, "tcp": false,
	} {
		t.Run(address, func(t *testing.T) {
			r := repo
			r.Server.Address = address
			_, err := c.Files(t.Context(), r, id)
			if good {
				require.NoError(t, err)
				return
			}
			assert.True(t, gitrepo.IsPassing(err), "RoR's administrator must act, not the project's people: %v", err)
			assert.ErrorContains(t, err, "as RoR gave it")
		})
	}
}

func TestPool_RateLimits(t *testing.T) {
	slow := gitaly.RateLimit{PerSecond: 0.001, Burst: 2}
	for name, config := range map[string]gitaly.PoolConfig{"over all servers": {Global: slow}, "for each server": {PerServer: slow}} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			c := gitaly.NewContent(gitaly.ContentConfig{CacheSize: 1}, f.serve(t, config), prometheus.NewRegistry())
			id := f.commit("refs/heads/main", "one", map[string]string{"a": "a"})
			other := repo
			other.Server.Address = "unix:/other"
			_, err := c.Files(t.Context(), repo, id)
			require.NoError(t, err)
			_, err = c.Files(t.Context(), other, id)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour/10)
			defer cancel()
			_, err = c.Files(ctx, other, id)
			if name == "over all servers" {
				require.ErrorContains(t, err, "rate limit")
				return
			}
			require.NoError(t, err)
			_, err = c.Files(ctx, other, id)
			require.ErrorContains(t, err, "rate limit")
		})
	}
}

func TestPool_Closed(t *testing.T) {
	f := newFake()
	pool := f.serve(t, gitaly.PoolConfig{})
	c := gitaly.NewContent(gitaly.ContentConfig{}, pool, prometheus.NewRegistry())
	require.NoError(t, pool.Close())
	_, err := c.Files(t.Context(), repo, oid("x"))
	require.ErrorContains(t, err, "shutting down")
}
