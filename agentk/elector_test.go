package agentk

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kas-agentk/kas/internal/testkit"
)

// candidate is a replica in an election.
type candidate struct {
	leads, worked chan struct{}
	finish        chan struct{}
	cancel        context.CancelFunc
	ended         chan error
}

func stand(t *testing.T, leases coordinationv1.LeasesGetter, identity string) *candidate {
	t.Helper()
	e, err := NewLeaseElector(LeaseConfig{
		Log: testkit.Logger(t), Leases: leases, Namespace: "gitlab-agent", Identity: identity,
		LeaseDuration: 600 * time.Millisecond, RenewDeadline: 400 * time.Millisecond, RetryPeriod: 50 * time.Millisecond,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	c := &candidate{
		leads: make(chan struct{}, 9), worked: make(chan struct{}, 9), finish: make(chan struct{}),
		cancel: cancel, ended: make(chan error, 1),
	}
	go func() {
		c.ended <- e.Lead(ctx, 7, func(ctx context.Context) {
			c.leads <- struct{}{}
			<-ctx.Done()
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
