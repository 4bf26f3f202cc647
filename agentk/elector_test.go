package agentk

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	leasev1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kas-agentk/kas/internal/testkit"
)

// candidate is a replica in an election.
type candidate struct {
	// told: the work has been told to end.
	leads, told, worked chan struct{}
	finish              chan struct{}
	cancel              context.CancelFunc
	ended               chan error
}

func stand(t *testing.T, leases coordinationv1.LeasesGetter, identity string) *candidate {
	t.Helper()
	e, err := NewLeaseElector(LeaseConfig{
		Log: testkit.Logger(t), Leases: leases, Namespace: "gitlab-agent", Identity: identity,
		// No lease expires: who is held up for a moment would lose it to another.
		LeaseDuration: time.Hour, RenewDeadline: 400 * time.Millisecond, RetryPeriod: 50 * time.Millisecond,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	c := &candidate{
		leads: make(chan struct{}, 9), told: make(chan struct{}, 9), worked: make(chan struct{}, 9), finish: make(chan struct{}),
		cancel: cancel, ended: make(chan error, 1),
	}
	go func() {
		c.ended <- e.Lead(ctx, 7, func(ctx context.Context, _ int64) {
			c.leads <- struct{}{}
			<-ctx.Done()
			c.told <- struct{}{}
			<-c.finish
			c.worked <- struct{}{}
		})
	}()
	t.Cleanup(cancel)
	return c
}

func (c *candidate) end(t *testing.T) {
	t.Helper()
	c.cancel()
	require.NoError(t, <-c.ended)
}

func holder(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	lease, err := client.CoordinationV1().Leases("gitlab-agent").Get(t.Context(), "agentk-7", metav1.GetOptions{})
	require.NoError(t, err)
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

func TestElector_OneLeadsAndTheNextFollows(t *testing.T) {
	client := fake.NewClientset()
	one := stand(t, client.CoordinationV1(), "one")
	<-one.leads
	two := stand(t, client.CoordinationV1(), "two")

	// One is told to end, but its work takes its time: the lease stays its own.
	one.cancel()
	require.Equal(t, "one", holder(t, client))
	select {
	case <-two.leads:
		t.Fatal("two lead at once")
	default:
	}
	close(one.finish)
	<-one.worked
	require.NoError(t, <-one.ended)
	<-two.leads
	require.Equal(t, "two", holder(t, client))
	close(two.finish)
	two.end(t)
	require.Empty(t, holder(t, client), "given up on the way out")
}

func TestElector_SameIdentityTakesItsLeaseUpAtOnce(t *testing.T) {
	client := fake.NewClientset()
	lost := stand(t, client.CoordinationV1(), "one")
	<-lost.leads
	again := stand(t, client.CoordinationV1(), "one") // as after kill -9
	<-again.leads
	close(lost.finish)
	close(again.finish)
	again.end(t)
	lost.end(t)
}

func TestElector_StandsAgainWhenTheAPIServerIsBack(t *testing.T) {
	client := fake.NewClientset()
	away := make(chan struct{})
	client.PrependReactor("*", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		select {
		case <-away:
			return true, nil, errors.New("connection refused")
		default:
			return false, nil, nil
		}
	})
	c := stand(t, client.CoordinationV1(), "one")
	<-c.leads
	close(c.finish)
	close(away)
	<-c.worked // the lease could not be renewed
	client.Lock()
	client.ReactionChain = client.ReactionChain[1:]
	client.Unlock()
	<-c.leads
	c.end(t)
}

func TestElector_LostLeaseIsNotGivenAwayWhileWorkGoesOn(t *testing.T) {
	client := fake.NewClientset()
	var renewals, released atomic.Int32
	var away atomic.Bool
	client.PrependReactor("update", "leases", func(action clienttesting.Action) (bool, runtime.Object, error) {
		update, ok := action.(clienttesting.UpdateAction)
		if !ok {
			return false, nil, nil
		}
		lease, ok := update.GetObject().(*leasev1.Lease)
		if !ok {
			return false, nil, nil
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			released.Add(1)
			return false, nil, nil
		}
		if away.Load() {
			return true, nil, errors.New("etcd is slow")
		}
		renewals.Add(1)
		return false, nil, nil
	})
	c := stand(t, client.CoordinationV1(), "one")
	<-c.leads
	testkit.Eventually(t, func() error {
		if renewals.Load() == 0 {
			return errors.New("not renewed")
		}
		return nil
	})
	away.Store(true)
	<-c.told
	// What follows the last try to renew is the elector's look at the lease, before
	// it would give it up.
	testkit.Eventually(t, func() error {
		if actions := client.Actions(); actions[len(actions)-1].GetVerb() != "get" && released.Load() == 0 {
			return errors.New("not looked at")
		}
		return nil
	})
	require.Zero(t, released.Load(), "a request may still be in flight")
	away.Store(false)
	close(c.finish)
	<-c.worked
	c.end(t)
}
