package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// lingerTime is how long a client may take to close its end of an upgraded connection once
// the cluster has closed its own.
const lingerTime = 2 * time.Second

// switchProtocols passes on what comes, both ways, until either end has had enough. The
// connection is closed then, and no error is more than a note.
func (t *transfer) switchProtocols(ctx context.Context, head *agentrpc.HttpResponseHead, data []byte) error {
	conn, buffered, err := t.control.Hijack()
	if err != nil {
		return refuse(http.StatusInternalServerError, "take over the connection: %v", err)
	}
	t.x.hijacked, t.x.code = true, http.StatusSwitchingProtocols
	t.server.metrics.upgraded.Inc()
	defer t.server.metrics.upgraded.Dec()
	defer func() { _ = conn.Close() }() // its end is known by then
	// Whatever ends the request ends who is held up in writing.
	unwatch := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer unwatch()
	_ = conn.SetDeadline(time.Time{}) // such as the one for the request's head
	if err := t.writeSwitch(conn, head); err != nil {
		return err
	}
	// What has come already, and then the connection itself: read through net/http, half
	// close would end the request.
	early, _ := buffered.Peek(buffered.Reader.Buffered())
	from := io.MultiReader(bytes.NewReader(early), conn)
	read := make(chan struct{})
	go func() {
		defer close(read)
		t.fromClient(from)
	}()
	err = t.toClient(conn, data)
	if err == nil {
		closeWrite(conn)
		_ = conn.SetReadDeadline(time.Now().Add(lingerTime))
	} else {
		_ = conn.Close()
	}
	<-read
	return err
}

// writeSwitch writes the head of an answer with status 101.
func (t *transfer) writeSwitch(conn io.Writer, head *agentrpc.HttpResponseHead) error {
	h := http.Header{}
	t.server.fromAgent(h, head.GetHeaders())
	h.Del("Content-Length")
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", t.upgrade)
	for name, values := range t.w.Header() { // those by which pages may see the answer
		h[name] = values
	}
	w := bufio.NewWriter(conn)
	_, _ = w.WriteString("HTTP/1.1 101 Switching Protocols\r\n") // Flush says what is wrong
	_ = h.Write(w)
	_, _ = w.WriteString("\r\n")
	if err := w.Flush(); err != nil {
		return fmt.Errorf("send to the client: %w", err)
	}
	return nil
}

// fromClient passes on what the client sends, and that it sends no more.
func (t *transfer) fromClient(from io.Reader) {
	switch err := t.pour(from); {
	case err == nil:
		_ = t.stream.CloseSend() // receiving says what is wrong
	case errors.Is(err, errUnwanted):
		_, _ = io.Copy(io.Discard, from) // or else the client may not see the end of the answer
	default:
		t.cancel(errGone)
	}
}

// toClient writes what the cluster sends until it sends no more.
func (t *transfer) toClient(conn io.Writer, data []byte) error {
	for {
		if len(data) > 0 {
			t.server.metrics.from.Add(float64(len(data)))
			if _, err := conn.Write(data); err != nil {
				t.cancel(errGone)
				return fmt.Errorf("send to the client: %w", err)
			}
			tunnelwire.Recycle(data)
		}
		var err error
		if data, err = receiveData(t.stream); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("the connection broke off: %w", err)
		}
	}
}

func receiveData(stream grpc.ClientStream) ([]byte, error) {
	_, data, err := receive(stream)
	return data, err
}

// closeWrite says that nothing more will be written.
func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // closing the connection will say the rest
	}
}
