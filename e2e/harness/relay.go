package harness

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// Relay is the network between an agentk and kas, or between two kas, which can be broken in the ways in
// which networks break. It owns one goroutine that accepts and two for each connection,
// until the test ends.
type Relay struct {
	// Address is what agentk dials.
	Address string

	f      *Fixture
	listen net.Listener
	cancel context.CancelFunc
	all    sync.WaitGroup
	// lost: bytes are taken and go nowhere, also those of connections to come.
	lost atomic.Bool

	mu sync.Mutex
	// targets are where a connection goes: to the first that takes it.
	targets []string
	wires   map[*wire]struct{}
}

// wire is one connection.
type wire struct {
	agentk, kas net.Conn
	// lost: like the Relay's, and for ever.
	lost atomic.Bool
}

// NewRelay is a network that works, to the kas at that address.
func (f *Fixture) NewRelay(kasAddress string) *Relay { return f.NewBalancer(kasAddress) }

// NewBalancer is a network with a load balancer: connections go to the first of these kas
// that takes them.
func (f *Fixture) NewBalancer(kasAddresses ...string) *Relay {
	f.T.Helper()
	listen, err := (&net.ListenConfig{}).Listen(f.T.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		f.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{
		Address: "grpc://" + listen.Addr().String(), f: f,
		listen: listen, cancel: cancel, wires: map[*wire]struct{}{},
	}
	r.Prefer(kasAddresses...)
	r.all.Go(func() { r.accept(ctx) })
	f.T.Cleanup(r.close)
	return r
}

// Prefer is where new connections go from now on: to the first that takes them.
func (r *Relay) Prefer(kasAddresses ...string) {
	var targets []string
	for _, address := range kasAddresses {
		targets = append(targets, strings.TrimPrefix(address, "grpc://"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets = targets
}

// dial connects to a target.
func (r *Relay) dial(ctx context.Context) (net.Conn, error) {
	r.mu.Lock()
	targets := r.targets
	r.mu.Unlock()
	var errs []error
	for _, target := range targets {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// BlackHole loses whatever anybody sends from now on, without a word to either end. The
// function it returns lets connections that are made then work again; those that there
// were stay lost.
func (r *Relay) BlackHole() (end func()) {
	r.lost.Store(true)
	for _, w := range r.current() {
		w.lost.Store(true)
	}
	return func() { r.lost.Store(false) }
}

// HalfOpenAtKas closes the connections that there are for agentk, and says nothing to kas.
func (r *Relay) HalfOpenAtKas() {
	for _, w := range r.current() {
		w.lost.Store(true)
		_ = w.agentk.Close()
	}
}

// HalfOpenAtAgentk closes them for kas, and says nothing to agentk.
func (r *Relay) HalfOpenAtAgentk() {
	for _, w := range r.current() {
		w.lost.Store(true)
		_ = w.kas.Close()
	}
}

// Cut closes the connections that there are at both ends.
func (r *Relay) Cut() {
	for _, w := range r.current() {
		w.close()
	}
}

func (r *Relay) current() []*wire {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*wire
	for w := range r.wires {
		all = append(all, w)
	}
	return all
}

func (r *Relay) accept(ctx context.Context) {
	for {
		conn, err := r.listen.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				r.f.T.Errorf("relay: %v", err)
			}
			return
		}
		r.all.Go(func() { r.serve(ctx, conn) })
	}
}

// serve carries bytes until both ends are closed or the Relay is.
func (r *Relay) serve(ctx context.Context, agentk net.Conn) {
	kas, err := r.dial(ctx)
	if err != nil { // kas is away
		_ = agentk.Close()
		return
	}
	w := &wire{agentk: agentk, kas: kas}
	w.lost.Store(r.lost.Load())
	r.mu.Lock()
	r.wires[w] = struct{}{}
	r.mu.Unlock()
	var ways sync.WaitGroup
	ways.Go(func() { w.carry(agentk, kas) })
	ways.Go(func() { w.carry(kas, agentk) })
	stop := context.AfterFunc(ctx, w.close)
	ways.Wait()
	stop()
	w.close()
	r.mu.Lock()
	delete(r.wires, w)
	r.mu.Unlock()
}

// carry is one way of a wire. The end of one way is the end of both, unless the wire is
// lost: then the other end does not hear of it.
func (w *wire) carry(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !w.lost.Load() {
			if _, err := to.Write(buffer[:n]); err != nil && !w.lost.Load() {
				w.close()
				return
			}
		}
		if err != nil {
			if !w.lost.Load() {
				w.close()
			}
			return
		}
	}
}

func (w *wire) close() {
	_ = w.agentk.Close()
	_ = w.kas.Close()
}

func (r *Relay) close() {
	r.cancel()
	if err := r.listen.Close(); err != nil && !errors.Is(err, io.EOF) {
		r.f.T.Error(err)
	}
	r.all.Wait()
}
