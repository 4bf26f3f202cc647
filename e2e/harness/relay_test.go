package harness

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echoes starts a server that sends back what it gets and counts who has left.
func echoes(t *testing.T) (address string, left <-chan struct{}) {
	t.Helper()
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listen.Close() })
	gone := make(chan struct{}, 10)
	go func() {
		for {
			conn, err := listen.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
				gone <- struct{}{}
			}()
		}
	}()
	return listen.Addr().String(), gone
}

// caller says a word through the relay.
type caller struct {
	t    *testing.T
	conn net.Conn
}

func dial(t *testing.T, r *Relay) caller {
	t.Helper()
	conn, err := net.Dial("tcp", r.Address[len("grpc://"):])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return caller{t: t, conn: conn}
}

// says is how a word fares.
func (c caller) says(wait time.Duration) error {
	c.t.Helper()
	if _, err := c.conn.Write([]byte("word")); err != nil {
		return err
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		c.t.Fatal(err)
	}
	_, err := io.ReadFull(c.conn, make([]byte, 4))
	return err
}

// unheard is long enough for a word to come back if it can.
const unheard = 100 * time.Millisecond

func TestRelay_BlackHole(t *testing.T) {
	address, _ := echoes(t)
	r := (&Fixture{T: t}).NewRelay("grpc://" + address)
	old := dial(t, r)
	if err := old.says(AnswerTimeout); err != nil {
		t.Fatal(err)
	}
	end := r.BlackHole()
	if err := old.says(unheard); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a word in a black hole: %v", err)
	}
	if err := dial(t, r).says(unheard); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a word on a new connection in a black hole: %v", err)
	}
	end()
	if err := old.says(unheard); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a word on a connection that was lost: %v", err)
	}
	if err := dial(t, r).says(AnswerTimeout); err != nil {
		t.Error(err)
	}
}

func TestRelay_HalfOpen(t *testing.T) {
	address, left := echoes(t)
	r := (&Fixture{T: t}).NewRelay("grpc://" + address)
	atKas := dial(t, r)
	if err := atKas.says(AnswerTimeout); err != nil {
		t.Fatal(err)
	}
	r.HalfOpenAtKas()
	if err := atKas.says(AnswerTimeout); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("agentk's end is not closed: %v", err)
	}
	select {
	case <-left:
		t.Error("kas has heard of it")
	case <-time.After(unheard):
	}
	atAgentk := dial(t, r)
	if err := atAgentk.says(AnswerTimeout); err != nil {
		t.Fatal(err)
	}
	r.HalfOpenAtAgentk()
	<-left // the echo of the first, or of this one: both are closed now
	if err := atAgentk.says(unheard); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("agentk has heard of it: %v", err)
	}
}
