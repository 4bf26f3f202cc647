package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/internal/testkit"
)

// slowConn keeps what is written to it, each write once the test lets it.
type slowConn struct {
	net.Conn
	let chan struct{}

	mu       sync.Mutex
	writes   [][]byte
	closed   bool
	deadline time.Time
	fails    error
	// writing, unless nil, is told of each write.
	writing func(n int)
}

func (c *slowConn) Write(p []byte) (int, error) {
	<-c.let
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails != nil {
		return 0, c.fails
	}
	if c.writing != nil {
		c.writing(len(p))
	}
	c.writes = append(c.writes, bytes.Clone(p))
	return len(p), nil
}

func (c *slowConn) SetReadDeadline(time.Time) error { return nil }

func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

func (c *slowConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func (c *slowConn) sizes() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sizes []int
	for _, w := range c.writes {
		sizes = append(sizes, len(w))
	}
	return sizes
}

// newBatched returns a connection, and what is below it, with how to wait until nothing is
// being sent.
func newBatched() (*batched, *slowConn, *sync.WaitGroup) {
	below := &slowConn{let: make(chan struct{}, 100)}
	l := &batching{}
	b := &batched{Conn: below, listener: l}
	b.changed.L = &b.mu
	return b, below, &l.sending
}

func mustWrite(t *testing.T, b *batched, n int) {
	t.Helper()
	_, err := b.Write(make([]byte, n))
	require.NoError(t, err)
}

func TestBatched_RecordsThatComeWhileOneIsWrittenAreWrittenTogether(t *testing.T) {
	b, below, sending := newBatched()
	below.let <- struct{}{}
	mustWrite(t, b, 100)
	require.Equal(t, []int{100}, below.sizes(), "a small one goes at once, and before the next is taken")
	mustWrite(t, b, fullRecord)
	for range 3 { // of which one may go with the first
		mustWrite(t, b, fullRecord)
	}
	mustWrite(t, b, 10)
	close(below.let)
	sending.Wait()
	sizes, sum := below.sizes(), 0
	for _, size := range sizes {
		require.LessOrEqual(t, size, batchSize)
		sum += size
	}
	require.Equal(t, 100+4*fullRecord+10, sum)
	require.LessOrEqual(t, len(sizes), 3)
	require.NoError(t, b.Close())
	require.True(t, below.closed)
	_, err := b.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestBatched_HoldsTwoBatchesAtMost(t *testing.T) {
	b, below, sending := newBatched()
	var taken, gone atomic.Int64
	var most int64
	below.writing = func(n int) {
		most = max(most, taken.Load()-gone.Load())
		gone.Add(int64(n))
	}
	var g errgroup.Group
	g.Go(func() error {
		for range 20 {
			n, err := b.Write(make([]byte, fullRecord))
			if err != nil {
				return err
			}
			taken.Add(int64(n))
		}
		return nil
	})
	for range 20 { // as many as there are writes at most
		below.let <- struct{}{}
	}
	require.NoError(t, g.Wait())
	sending.Wait()
	require.EqualValues(t, 20*fullRecord, gone.Load())
	require.LessOrEqual(t, most, int64(2*batchSize))
	for _, size := range below.sizes() {
		require.LessOrEqual(t, size, batchSize)
	}
}

func TestBatched_WhatWasWrittenGoesOutAfterClose(t *testing.T) {
	b, below, sending := newBatched()
	mustWrite(t, b, fullRecord)
	mustWrite(t, b, fullRecord)
	before := time.Now()
	require.NoError(t, b.SetDeadline(longAgo)) // as TLS does
	require.False(t, below.deadline.Before(before.Add(closeTime)), "what was taken has its time")
	require.NoError(t, b.Close())
	require.ErrorIs(t, b.Close(), net.ErrClosed)
	_, err := b.Write(make([]byte, fullRecord))
	require.ErrorIs(t, err, net.ErrClosed)
	close(below.let)
	sending.Wait()
	sum := 0
	for _, size := range below.sizes() {
		sum += size
	}
	require.Equal(t, 2*fullRecord, sum)
	require.True(t, below.closed)
}

func TestBatched_CloseEndsAWriteThatIsHeldUp(t *testing.T) {
	b, below, sending := newBatched()
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := b.Write(make([]byte, fullRecord)); err != nil {
				ended <- err
				return
			}
		}
	}()
	testkit.Eventually(t, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.waiting == nil || len(*b.waiting) < batchSize {
			return errors.New("there is room")
		}
		return nil
	})
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed) // nothing has been written yet
	close(below.let)
	sending.Wait()
	require.True(t, below.closed)
}

func TestBatched_AWriterLearnsWhatHasFailed(t *testing.T) {
	b, below, sending := newBatched()
	below.fails = io.ErrClosedPipe
	mustWrite(t, b, fullRecord)
	close(below.let)
	sending.Wait()
	_, err := b.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestBatching_LargeAnswersComeWhole(t *testing.T) {
	part := make([]byte, 60<<10)
	for i := range part {
		part[i] = byte(i ^ i>>8)
	}
	var parts []string
	for i := range 12 {
		parts = append(parts, string(part[:len(part)-i]))
	}
	want := strings.Join(parts, "")
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			h := start(t, answering(http.StatusOK, parts...), func(c *Config) { c.TLS = certificate() })
			transport := h.client.Transport.(*http.Transport)
			transport.TLSClientConfig.NextProtos, transport.ForceAttemptHTTP2 = []string{protocol}, protocol == "h2"
			for _, last := range []bool{false, true} { // the connection ends with the last answer
				request := h.request(http.MethodGet, "/api", nil)
				request.Close = last
				response, body := h.do(request)
				require.Equal(t, protocol == "h2", response.ProtoMajor == 2)
				require.True(t, bytes.Equal([]byte(want), []byte(body))) // a difference would be too long to show
			}
		})
	}
}
