package gitaly

import (
	"context"
	"errors"
	"fmt"
	"io"

	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/ror/registry"
)

// correlationKey is metadata whose value Gitaly's hooks have as header X-Request-ID of their
// own requests.
const correlationKey = "x-gitlab-correlation-id"

// chunk is how many bytes of a pack go into one message.
const chunk = 128 << 10

// Service is one side of Git's protocol.
type Service string

// Services, as Git names them in URLs.
const (
	UploadPack  Service = "git-upload-pack"  // clone and fetch
	ReceivePack Service = "git-receive-pack" // push
)

// InfoRefs writes the advertisement of refs that opens a fetch or a push. protocol
// is the client's Git-Protocol header.
func (c *Client) InfoRefs(ctx context.Context, p registry.Project, s Service, protocol string, w io.Writer) error {
	c.awaitReady(ctx)
	err := c.infoRefs(ctx, p, s, protocol, w)
	if status.Code(err) != codes.NotFound {
		return classify("read refs", p, err)
	}
	if err := c.Create(ctx, p); err != nil {
		return err
	}
	return classify("read refs", p, c.infoRefs(ctx, p, s, protocol, w))
}

func (c *Client) infoRefs(ctx context.Context, p registry.Project, s Service, protocol string, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream, however we return
	defer cancel()
	req := &gitalypb.InfoRefsRequest{Repository: c.repository(p), GitProtocol: protocol}
	var stream interface {
		Recv() (*gitalypb.InfoRefsResponse, error)
	}
	var err error
	if s == ReceivePack {
		stream, err = c.smartHTTP.InfoRefsReceivePack(ctx, req)
	} else {
		stream, err = c.smartHTTP.InfoRefsUploadPack(ctx, req)
	}
	if err != nil {
		return err //nolint:wrapcheck // InfoRefs looks at the code
	}
	return receive(w, func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	})
}

// Exchange is one request of a Git client, and its answer.
type Exchange struct {
	// Protocol is the client's Git-Protocol header.
	Protocol string
	In       io.Reader
	Out      io.Writer
	// StopReading makes a Read of In that waits for the client return at once.
	StopReading func()
}

// UploadPack answers what a fetching client asks for.
func (c *Client) UploadPack(ctx context.Context, p registry.Project, x Exchange) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.awaitReady(ctx)
	stream, err := c.smartHTTP.PostUploadPack(ctx)
	if err != nil {
		return classify("upload pack", p, err)
	}
	err = stream.Send(&gitalypb.PostUploadPackRequest{Repository: c.repository(p), GitProtocol: x.Protocol})
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: receiving tells why
		return classify("upload pack", p, err)
	}
	return classify("upload pack", p, x.run(cancel, stream,
		func(data []byte) error { return stream.Send(&gitalypb.PostUploadPackRequest{Data: data}) },
		func() ([]byte, error) {
			m, err := stream.Recv()
			return m.GetData(), err
		}))
}

// ReceivePack takes what a pushing client sends, and answers with the result. Gitaly
// asks the internal API whether the user may.
func (c *Client) ReceivePack(ctx context.Context, p registry.Project, u registry.User, x Exchange) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.awaitReady(ctx)
	// Gitaly's hooks say it again when they call.
	if traceparent := tracing.Traceparent(ctx); traceparent != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, correlationKey, traceparent)
	}
	stream, err := c.smartHTTP.PostReceivePack(ctx)
	if err != nil {
		return classify("receive pack", p, err)
	}
	err = stream.Send(&gitalypb.PostReceivePackRequest{
		Repository: c.repository(p), GlId: fmt.Sprintf("user-%d", u.ID), GlRepository: p.GLRepository(),
		GlUsername: u.Username, GitProtocol: x.Protocol,
	})
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: receiving tells why
		return classify("receive pack", p, err)
	}
	return classify("receive pack", p, x.run(cancel, stream,
		func(data []byte) error { return stream.Send(&gitalypb.PostReceivePackRequest{Data: data}) },
		func() ([]byte, error) {
			m, err := stream.Recv()
			return m.GetData(), err
		}))
}

// run copies In to the stream and the stream to Out until the stream ends. It owns
// the goroutine that reads In and returns after that has stopped reading.
func (x Exchange) run(cancel func(), stream grpc.ClientStream, message func([]byte) error, answer func() ([]byte, error)) error {
	sent := make(chan error, 1)
	go func() {
		err := send(x.In, message, stream.CloseSend)
		sent <- err // before the stream ends by it, to be there as the reason
		if err != nil {
			cancel()
		}
	}()
	err := receive(x.Out, answer)
	var sendErr error
	select {
	case sendErr = <-sent:
	default: // Gitaly has said all it will, the client still talks
		x.StopReading()
		cancel()
		<-sent
	}
	if err != nil && sendErr != nil {
		return sendErr // which ended the stream
	}
	return err
}

// send copies r into a stream. A stream that Gitaly ended is no error here: the
// receiving side hears why.
func send(r io.Reader, message func([]byte) error, closeSend func() error) error {
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := message(buf[:n]); err != nil {
				return endOfStream(err)
			}
		}
		if errors.Is(err, io.EOF) {
			return endOfStream(closeSend())
		}
		if err != nil {
			return fmt.Errorf("read from the client: %w", err)
		}
	}
}

func endOfStream(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("send to gitaly: %w", err)
}

// receive copies a stream to w until it ends.
func receive(w io.Writer, message func() ([]byte, error)) error {
	for {
		data, err := message()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return fmt.Errorf("write to the client: %w", err)
		}
	}
}
