package agents

import (
	"context"
	"reflect"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/answers"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// minGuard is the shortest time between two questions of a Guard about the same token.
const minGuard = time.Second

// Guard watches over the token that a stream lives by: it asks again whenever the answer
// about it expires or is to be rechecked. It has a goroutine only while it asks. Its
// methods are for one goroutine, the stream's.
type Guard struct {
	access *Access
	token  string
	known  gitlabapi.AgentInfo

	// Of these, either the first two are set, or the third.
	due       clock.Timer
	rechecked <-chan struct{}
	asking    chan *verdict
	// next is what rechecked will be: what rings meanwhile counts.
	next <-chan struct{}
}

// verdict about a token: why the stream is to end, or when to ask again.
type verdict struct {
	why error
	due time.Time
}

// NewGuard returns one for the bearer of a token, of whom this is known. End must be
// called, after the end of the contexts that were given to Wait.
func (a *Access) NewGuard(token string, known gitlabapi.AgentInfo) *Guard {
	return &Guard{access: a, token: token, known: known}
}

// Wait returns nil once news is closed. It returns an error once RoR refuses the token or
// says something else about the agent than known, or ctx ends: the stream is to end with
// it. Trouble with RoR leaves the stream open: it was let in, and the next answer decides.
func (g *Guard) Wait(ctx context.Context, news <-chan struct{}) error {
	if g.due == nil && g.asking == nil {
		g.ask(ctx)
	}
	for {
		var due <-chan time.Time
		if g.due != nil {
			due = g.due.C()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-news:
			return nil
		case <-due:
			g.ask(ctx)
		case <-g.rechecked:
			g.ask(ctx)
		case said := <-g.asking:
			if g.asking = nil; said.why != nil {
				return said.why
			}
			g.due, g.rechecked = g.access.clock.NewTimer(said.due.Sub(g.access.clock.Now())), g.next
		}
	}
}

// End lets go of everything.
func (g *Guard) End() {
	if g.due != nil {
		g.due.Stop()
	}
	if g.asking != nil {
		<-g.asking
	}
}

// ask has RoR asked, unless its last answer is still believed.
func (g *Guard) ask(ctx context.Context) {
	if g.due != nil {
		g.due.Stop()
	}
	g.next = g.access.Rechecked(g.known.AgentID)
	g.due, g.rechecked = nil, nil
	said := make(chan *verdict, 1)
	g.asking = said
	go func() { said <- g.judge(ctx) }()
}

// judge asks about the token. It runs in a goroutine of its own.
func (g *Guard) judge(ctx context.Context) *verdict {
	info, until, err := g.access.agent(ctx, g.token)
	now := g.access.clock.Now()
	switch {
	case ctx.Err() != nil:
		return &verdict{why: ctx.Err()}
	case err == nil && !sameAgent(info, g.known):
		return &verdict{why: status.Error(codes.Unavailable, "the agent's project was changed or moved: connect again")}
	case err != nil && status.Code(err) != codes.Unavailable:
		return &verdict{why: err}
	case err != nil:
		return &verdict{due: now.Add(answers.StaleRetry)}
	case until.Sub(now) < minGuard:
		return &verdict{due: now.Add(minGuard)}
	}
	return &verdict{due: until}
}

// sameAgent tells whether two answers about a token say the same.
func sameAgent(a, b gitlabapi.AgentInfo) bool {
	return reflect.DeepEqual(a, b)
}
