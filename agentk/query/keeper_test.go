package query

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestKeeper_HoldsWhatItIsToldAndTriesAgainQuietly(t *testing.T) {
	c := newFakeCache()
	view := c.put(pods, objects.Table, newFakeView())
	c.put(secrets, objects.Whole, newFakeView())
	c.fail(secrets, objects.Whole, apierrors.NewForbidden(secrets.GroupResource(), "", errors.New("cannot list")))
	log, logged := observer.New(zap.InfoLevel)
	k := NewKeeper(KeeperConfig{Log: zap.New(log), Retry: retry.Policy{Initial: time.Millisecond, Max: 2 * time.Millisecond}}, c, c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	holds := func(n int) {
		t.Helper()
		testkit.Eventually(t, func() error {
			if got := c.held(); got != n {
				return fmt.Errorf("%d views are held, not %d", got, n)
			}
			return nil
		})
	}
	kept := []Kept{{pods.GroupResource(), objects.Table}, {secrets.GroupResource(), objects.Whole}}
	k.Keep(nil)
	k.Keep(kept)
	holds(1)
	testkit.Eventually(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := c.tried[viewKey{"secrets", objects.Whole}]; n < 3 {
			return fmt.Errorf("tried %d times", n)
		}
		return nil
	})
	require.Equal(t, 1, logged.FilterMessageSnippet("cannot be kept").Len(), "it is said once")
	require.Contains(t, logged.All()[0].ContextMap()["error"], "grant it both verbs")

	c.fail(secrets, objects.Whole, nil)
	holds(2)
	testkit.Eventually(t, func() error {
		if logged.FilterMessageSnippet("is kept now").Len() != 1 {
			return errors.New("it is not said that it works now")
		}
		return nil
	})
	c.put(pods, objects.Table, newFakeView())
	close(view.ended)
	testkit.Eventually(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := c.opened[viewKey{"pods", objects.Table}]; n < 2 {
			return errors.New("what has ended is not opened again")
		}
		return nil
	})
	holds(2)
	k.Keep(kept[:1])
	holds(1)
	cancel()
	require.NoError(t, <-done)
	require.Zero(t, c.held())
}
