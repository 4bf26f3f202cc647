package status

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
)

// tracePoster notes of which trace posts are.
type tracePoster struct {
	mu   sync.Mutex
	fail error
	// said is the state that was told, and of which trace.
	said []string
}

func (p *tracePoster) PostSyncStatus(ctx context.Context, u *syncstatus.Update) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, fmt.Sprintf("%s %s", u.GetStatus().GetState(), tracing.Traceparent(ctx)))
	return p.fail
}

func (p *tracePoster) set(fail error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail, p.said = fail, nil
}

const (
	aTraceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	anotherOne   = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01"
)

func TestForward_TheNextPostIsOfTheReportsTrace(t *testing.T) {
	poster := &tracePoster{}
	store, clock := newStore(t, poster)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	defer func() { cancel(); <-done }()
	said := func(want string) {
		t.Helper()
		testkit.Eventually(t, func() error {
			clock.Step(longestRest)
			poster.mu.Lock()
			defer poster.mu.Unlock()
			if !slices.Contains(poster.said, want) {
				return fmt.Errorf("told %q, want %q", poster.said, want)
			}
			return nil
		})
		quiet(t, store)
	}
	store.Connected(seven, staging)
	said("STATE_PENDING ")

	poster.set(fmt.Errorf("post: %w", gitlabapi.ErrUnavailable))
	report := reportOf("c1")
	report.Traceparent = aTraceparent
	store.Source(seven, staging, sourceOf("c1"))
	store.Report(seven, staging, report)
	said("STATE_SYNCED " + aTraceparent)
	poster.set(nil)
	said("STATE_SYNCED " + aTraceparent) // the one that RoR takes, as well

	poster.set(nil)
	store.Source(seven, staging, sourceOf("c2")) // this is nothing of the report's
	said("STATE_SYNCING ")
	poster.set(nil)
	report = reportOf("c2")
	report.Traceparent = anotherOne
	store.Report(seven, staging, report)
	said("STATE_SYNCED " + anotherOne)
}
