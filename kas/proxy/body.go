package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// longAgo as a deadline ends reading.
var longAgo = time.Unix(1, 0)

// bodyTime is how long a client may go on sending a body that nobody wants.
const bodyTime = 2 * time.Second

// send sends the body, if there is one, in the background. The function that it returns ends
// that, and waits for it.
func (t *transfer) send() (end func()) {
	switch {
	case t.upgrade != "": // what comes is for later
		return func() {}
	case t.r.ContentLength == 0 || t.r.Body == nil || t.r.Body == http.NoBody:
		_ = t.stream.CloseSend() // receiving says what is wrong
		return func() {}
	}
	_ = t.control.EnableFullDuplex() // where there is no such thing, nothing is half-duplex
	sent := make(chan error, 1)
	go func() {
		err := t.pour(t.r.Body)
		switch {
		case err == nil:
			_ = t.stream.CloseSend() // receiving says what is wrong
		case !errors.Is(err, errUnwanted):
			t.cancel(errGone)
		}
		sent <- err
	}()
	return func() {
		select {
		case err := <-sent:
			if err != nil {
				leaveBody(t.control)
			}
		default:
			t.cancel(errOver)                      // of who is held up in sending
			_ = t.control.SetReadDeadline(longAgo) // of who is held up in reading
			<-sent
		}
	}
}

// leaveBody bounds how long net/http waits for the rest of a body that nobody reads: where
// it comes soon the connection can be used again.
func leaveBody(control *http.ResponseController) {
	_ = control.SetReadDeadline(time.Now().Add(bodyTime)) // or the client is waited for
}

// errUnwanted says that the agent takes no more of a body.
var errUnwanted = errors.New("the agent wants no more")

// pour sends what a reader gives, as it comes, until its end.
func (t *transfer) pour(from io.Reader) error {
	buffer := getBuffer()
	defer putBuffer(buffer)
	for {
		n, err := from.Read(*buffer)
		if n > 0 {
			t.server.metrics.toAgent.Add(float64(n))
			if t.stream.SendMsg(part((*buffer)[:n])) != nil {
				return errUnwanted
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from the client: %w", err)
		}
	}
}
