package tunnel

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Replicas are the other kas that an agent may be connected to.
type Replicas interface {
	// Where returns the URLs of those that say the agent is connected to them, and a channel
	// that is closed when that has changed. With an error nothing is known now. It returns
	// at once or soon.
	Where(ctx context.Context, agentID int64) (urls []string, changed <-chan struct{}, err error)
	// NewStream begins an RPC with the agent, at one of them. It takes *grpctool.Raw for
	// messages. An RPC that has not begun fails with an error that has a method NotBegun,
	// which returns true, and a gRPC status: one with several requests fails so in
	// NewStream; one with one request and several answers in NewStream or SendMsg, which
	// wait until it has begun; a unary one in NewStream or RecvMsg. Whoever called NewStream
	// ends ctx.
	NewStream(ctx context.Context, url string, agentID int64, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error)
}

const (
	// firstPause and lastPause bound how long an RPC waits before it asks those again who
	// are said to have its agent, but could not begin it.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// place is where an RPC can begin: one of both.
type place struct {
	stream *stream
	url    string // of another kas
}

// route is what one RPC has tried. The zero route is ready.
type route struct {
	// refused says why the RPC could not begin there, by URL, since it waited last.
	refused  map[string]error
	pauses   int
	patience *patience
}

// end frees what the route uses.
func (r *route) end() { r.patience.end() }

// next returns one of the URLs that has not refused; empty: there is none.
func (r *route) next(urls []string) string {
	for _, u := range urls {
		if r.refused[u] == nil {
			return u
		}
	}
	return ""
}

// hopeless returns the error of an agent that is connected, and offers the service nowhere;
// nil: who knows.
func (r *route) hopeless(local error) error {
	last := local
	for _, err := range r.refused {
		if status.Code(err) != codes.Unimplemented {
			return nil
		}
		last = err
	}
	return last
}

// pause returns how long to wait before all is tried again; zero: for news alone.
func (r *route) pause(lookup error) time.Duration {
	switch {
	case lookup != nil:
		return lastPause
	case len(r.refused) == 0:
		return 0
	default:
		return min(firstPause<<min(r.pauses, 10), lastPause)
	}
}

// goesOn notes how an RPC fared at another kas, and says whether it is to be tried elsewhere.
func (c *conn) goesOn(r *route, url string, err error) bool {
	var says interface{ NotBegun() bool }
	if err == nil || !errors.As(err, &says) || !says.NotBegun() {
		c.server.metrics.far("begun")
		return false
	}
	c.server.metrics.far("refused")
	switch status.Code(err) {
	case codes.Unavailable, codes.Unimplemented:
	default: // it would fare no better elsewhere
		return false
	}
	if r.refused == nil {
		r.refused = make(map[string]error)
	}
	r.refused[url] = err
	return true
}

// take finds a place for an RPC.
func (c *conn) take(ctx context.Context, service string, r *route) (place, error) {
	began := c.server.cfg.Clock.Now()
	var to place
	var err error
	switch {
	case c.here:
		to.stream, err = c.takeHere(ctx, service)
	case c.replicas == nil:
		to.stream, err = c.server.pool.take(ctx, c.agentID, service)
	default:
		to, err = c.find(ctx, service, r)
	}
	c.server.metrics.wait.Observe(c.server.cfg.Clock.Since(began).Seconds())
	return to, err
}

// find finds a place here or at another kas, and waits for one.
func (c *conn) find(ctx context.Context, service string, r *route) (place, error) {
	for {
		if err := ctx.Err(); err != nil {
			return place{}, status.FromContextError(err).Err()
		}
		st, here, err := c.server.pool.takeNow(c.agentID, service)
		if st != nil || err != nil {
			return place{stream: st}, err
		}
		var news <-chan struct{}
		var pause time.Duration
		if !here.offered {
			urls, changed, err := c.replicas.Where(ctx, c.agentID)
			if url := r.next(urls); url != "" {
				return place{url: url}, nil
			}
			var local error
			if here.present {
				local = tooOld(c.agentID, service)
			}
			if hopeless := r.hopeless(local); hopeless != nil {
				return place{}, hopeless
			}
			news, pause = changed, r.pause(err)
		}
		st, err = c.await(ctx, service, r, news, pause)
		if !errors.Is(err, errLookAgain) {
			return place{stream: st}, r.reason(err)
		}
		r.refused = nil
		r.pauses++
	}
}

// await waits for a stream here, for news, or for a while; errLookAgain: there is reason to.
func (c *conn) await(ctx context.Context, service string, r *route, news <-chan struct{}, pause time.Duration) (*stream, error) {
	pool := c.server.pool
	st, w, err := pool.takeOrQueue(c.agentID, service, true)
	if w == nil {
		return st, err
	}
	if r.patience == nil {
		r.patience = pool.patience(ctx)
	}
	var again <-chan time.Time
	if pause > 0 {
		timer := pool.cfg.Clock.NewTimer(pause)
		defer timer.Stop()
		again = timer.C()
	}
	return pool.wait(ctx, c.agentID, w, r.patience, news, again)
}

// reason adds to the error of an agent that is nowhere what others said of it.
func (r *route) reason(err error) error {
	if status.Code(err) != codes.Unavailable {
		return err
	}
	for url, said := range r.refused {
		return status.Errorf(codes.Unavailable, "%s; the kas at %s: %s", status.Convert(err).Message(), url, status.Convert(said).Message())
	}
	return err
}

// takeHere takes a stream here, or says at once that there can be none.
func (c *conn) takeHere(ctx context.Context, service string) (*stream, error) {
	st, here, err := c.server.pool.takeNow(c.agentID, service)
	switch {
	case st != nil:
		return st, nil
	case err != nil:
	case !here.present:
		err = notConnected(c.agentID)
	case !here.offered:
		err = tooOld(c.agentID, service)
	default:
		var r route
		defer r.end()
		if st, err = c.await(ctx, service, &r, nil, 0); err == nil {
			return st, nil
		}
		if errors.Is(err, errLookAgain) {
			err = notConnected(c.agentID)
		}
	}
	return nil, notBegunError{err}
}

// notBegunError is the status of an RPC that has not begun.
type notBegunError struct{ error }

// NotBegun says that the RPC may be tried elsewhere.
func (notBegunError) NotBegun() bool { return true }

// GRPCStatus is what status.FromError finds.
func (e notBegunError) GRPCStatus() *status.Status { return status.Convert(e.error) }

// Unwrap returns the status.
func (e notBegunError) Unwrap() error { return e.error }
