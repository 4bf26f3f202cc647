package githttp

import (
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
)

// stall is how long a client may neither send nor take anything.
const stall = 2 * time.Minute

// transfer is the two directions of one request: its body to read, its answer to
// write. Each may be used by one goroutine at a time.
type transfer struct {
	w           http.ResponseWriter
	r           *http.Request
	control     *http.ResponseController
	clock       clock.PassiveClock
	contentType string
	wrote       bool
	stopped     atomic.Bool
}

func newTransfer(w http.ResponseWriter, r *http.Request, c clock.PassiveClock) *transfer {
	return &transfer{w: w, r: r, control: http.NewResponseController(w), clock: c}
}

// Read implements io.Reader: the request's body.
func (t *transfer) Read(p []byte) (int, error) {
	_ = t.control.SetReadDeadline(t.clock.Now().Add(stall))
	if t.stopped.Load() {
		t.stopReading()
	}
	n, err := t.r.Body.Read(p)
	if err != nil && !t.stopped.Load() {
		// From here on the server watches the connection for the client's end; a
		// deadline that passes meanwhile would look like it.
		_ = t.control.SetReadDeadline(time.Time{})
	}
	return n, err //nolint:wrapcheck // io.EOF must stay bare
}

// stopReading makes a Read that waits return, and all after it.
func (t *transfer) stopReading() {
	t.stopped.Store(true)
	_ = t.control.SetReadDeadline(time.Unix(1, 0))
}

// Write implements io.Writer: the answer. It sends at once.
func (t *transfer) Write(p []byte) (int, error) {
	if !t.wrote {
		t.wrote = true
		// Git answers while it still reads; without this HTTP/1 would swallow the rest of
		// the body first. Not earlier: a refusal leaves the body unread, and net/http's
		// connection would break over that. What cannot (HTTP/2) does not need to.
		_ = t.control.EnableFullDuplex()
		t.w.Header().Set("Content-Type", t.contentType)
		t.w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	}
	_ = t.control.SetWriteDeadline(t.clock.Now().Add(stall))
	n, err := t.w.Write(p)
	if err != nil {
		return n, err //nolint:wrapcheck // the repositories say what they were doing
	}
	_ = t.control.Flush()
	return n, nil
}

// started tells whether a part of the answer is on its way.
func (t *transfer) started() bool { return t.wrote }

// abort breaks the connection off, so that the client sees the answer end too early.
func (t *transfer) abort() { _ = t.control.SetWriteDeadline(time.Unix(1, 0)) }
