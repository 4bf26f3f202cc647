package agents

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestRecheck_EndsTheStreamsOfARevokedToken(t *testing.T) {
	rails := newFakeRails()
	access, clock := newAccess(t, rails)
	ended := guard(t, access)
	testkit.Eventually(t, func() error {
		if !clock.HasWaiters() { // until the answer, which has come, is old
			return errNotAsked
		}
		return nil
	})
	access.Recheck(8) // another agent's: nothing is asked
	rails.set(func() { delete(rails.agents, "good") })
	access.Recheck(7)
	if err := <-ended; status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	if n := rails.questions(); n != 2 {
		t.Errorf("%d questions", n)
	}
}

func TestRecheck_AnAnswerOnItsWayIsNotBelievedForLong(t *testing.T) {
	rails := newFakeRails()
	rails.hold = make(chan struct{})
	access, _ := newAccess(t, rails)
	answered := make(chan error, 1)
	go func() {
		_, err := access.Agent(t.Context(), "good")
		answered <- err
	}()
	testkit.Eventually(t, func() error {
		if rails.questions() != 1 {
			return errNotAsked
		}
		return nil
	})
	access.Recheck(7) // RoR has answered, and the answer is not here yet
	close(rails.hold)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	rails.set(func() { rails.hold = nil; delete(rails.agents, "good") })
	if _, err := access.Agent(t.Context(), "good"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
}

var errNotAsked = gitlabapi.ErrUnavailable
