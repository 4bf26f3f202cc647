package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// upgraded plays an agent that goes on with what it was asked for, and then as script says.
func upgraded(script func(agentStream) error) agentFunc {
	return func(stream agentStream) error {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		if first.GetHead().GetUpgrade() == "" {
			return status.Error(codes.InvalidArgument, "no upgrade")
		}
		if err := stream.Send(&agentrpc.HttpResponse{
			Head: &agentrpc.HttpResponseHead{Status: 101, Headers: []*agentrpc.HttpHeader{{Name: "Sec-WebSocket-Accept", Values: []string{"a"}}}},
			Data: []byte("hello\n"),
		}); err != nil {
			return err
		}
		return script(stream)
	}
}

// line receives a line that is sent in one piece.
func line(stream agentStream) (string, error) {
	request, err := stream.Recv()
	return string(request.GetData()), err
}

func say(stream agentStream, text string) error {
	return stream.Send(&agentrpc.HttpResponse{Data: []byte(text)})
}

// connection is a client that asks for SPDY, or a WebSocket.
type connection struct {
	t    testing.TB
	conn *net.TCPConn
	read *bufio.Reader
	// body of an answer that is not 101.
	body io.Reader
}

func (h *harness) connect(protocol string, more ...string) (*connection, reply) {
	h.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(h.t.Context(), "tcp", h.address)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	request := "POST /k8s-proxy/api/v1/namespaces/a/pods/b/exec?command=sh HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pat:7:good\r\n" +
		"Connection: Upgrade\r\nUpgrade: " + protocol + "\r\n"
	for _, header := range more {
		request += header + "\r\n"
	}
	c := &connection{t: h.t, conn: conn.(*net.TCPConn), read: bufio.NewReader(conn)}
	c.write(request + "\r\n")
	response, err := http.ReadResponse(c.read, nil)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = response.Body.Close() })
	c.body = response.Body
	return c, reply{StatusCode: response.StatusCode, Header: response.Header}
}

func (c *connection) write(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.conn, text)
	require.NoError(c.t, err)
}

func (c *connection) wants(text string) {
	c.t.Helper()
	got, err := c.read.ReadString('\n')
	require.NoError(c.t, err)
	require.Equal(c.t, text, got)
}

func (c *connection) ends() {
	c.t.Helper()
	_, err := c.read.ReadByte()
	require.ErrorIs(c.t, err, io.EOF)
}

func TestUpgrade_BothWaysAndToTheEnd(t *testing.T) {
	for _, protocol := range []string{"SPDY/3.1", "websocket"} {
		t.Run(protocol, func(t *testing.T) {
			h := start(t, upgraded(func(stream agentStream) error {
				for {
					text, err := line(stream)
					if errors.Is(err, io.EOF) { // the client says no more, the server does
						return say(stream, "the rest\n")
					}
					if err != nil {
						return err
					}
					if err := say(stream, "got "+text); err != nil {
						return err
					}
				}
			}))
			c, response := h.connect(protocol)
			require.Equal(t, 101, response.StatusCode)
			require.Equal(t, "Upgrade", response.Header.Get("Connection"))
			require.Equal(t, protocol, response.Header.Get("Upgrade"))
			require.Equal(t, "a", response.Header.Get("Sec-Websocket-Accept"))
			require.Empty(t, response.Header.Values("Content-Length"))
			c.wants("hello\n")
			require.InDelta(t, 1.0, h.value("kas_proxy_upgraded_connections"), 0)
			for i := range 3 {
				c.write(fmt.Sprintf("%d\n", i))
				c.wants(fmt.Sprintf("got %d\n", i))
			}
			require.NoError(t, c.conn.CloseWrite())
			c.wants("the rest\n")
			c.ends()
			h.quiet()
			require.Zero(t, h.value("kas_proxy_upgraded_connections"))
			require.InDelta(t, 1.0, h.value("kas_proxy_requests_total", "personal_access_token", "101"), 0)
		})
	}
}

func TestUpgrade_WhatTheClientSendsAtOnceIsNotLost(t *testing.T) {
	h := start(t, upgraded(func(stream agentStream) error {
		text, err := line(stream)
		if err != nil {
			return err
		}
		return say(stream, "got "+text)
	}))
	c, _ := h.connect("websocket", "X-End: 1\r\n\r\nearly") // what follows is no header
	c.wants("hello\n")
	got, err := io.ReadAll(c.read)
	require.NoError(t, err)
	require.Contains(t, string(got), "got early")
}

func TestUpgrade_TheServerEndsFirst(t *testing.T) {
	h := start(t, upgraded(func(stream agentStream) error { return say(stream, "bye\n") }))
	c, _ := h.connect("SPDY/3.1")
	c.write("nobody reads this")
	c.wants("hello\n")
	c.wants("bye\n")
	c.ends()
	require.NoError(t, c.conn.Close())
	h.quiet()
}

func TestUpgrade_EitherEndGoes(t *testing.T) {
	t.Run("the client", func(t *testing.T) {
		ended := make(chan error, 1)
		h := start(t, upgraded(func(stream agentStream) error {
			_, err := line(stream)
			<-stream.Context().Done()
			ended <- err
			return err
		}))
		c, _ := h.connect("SPDY/3.1")
		c.wants("hello\n")
		require.NoError(t, c.conn.SetLinger(0)) // as when it is killed
		require.NoError(t, c.conn.Close())
		require.Equal(t, codes.Canceled, status.Code(<-ended))
		h.quiet()
	})
	t.Run("the agent", func(t *testing.T) {
		h := start(t, upgraded(func(agentStream) error { return status.Error(codes.Unavailable, "gone") }))
		c, _ := h.connect("websocket")
		c.wants("hello\n")
		_, err := c.read.ReadByte()
		require.Error(t, err)
		h.quiet()
	})
}

func TestUpgrade_TheClusterMayAnswerOtherwise(t *testing.T) {
	h := start(t, func(stream agentStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := respond(stream, 403, "forbidden"); err != nil {
			return err
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			return errors.New("the request has no end")
		}
		return nil
	})
	c, response := h.connect("websocket")
	require.Equal(t, 403, response.StatusCode)
	body, err := io.ReadAll(c.body)
	require.NoError(t, err)
	require.Equal(t, "forbidden", string(body))
}

func TestUpgrade_NotWithABody(t *testing.T) {
	h := start(t, answering(200))
	c, response := h.connect("websocket", "Content-Length: 3\r\n\r\nabc")
	body, err := io.ReadAll(c.body)
	require.NoError(t, err)
	refused(t, response, string(body), 400, "must not have a body")
}

func TestUpgrade_ToWhatKubernetesHasNotIsIgnored(t *testing.T) {
	heads := make(chan *agentrpc.HttpRequestHead, 1)
	h := start(t, noting(heads))
	_, response := h.connect("h2c", "Content-Length: 0")
	require.Equal(t, 200, response.StatusCode)
	require.Empty(t, (<-heads).GetUpgrade())
}

func TestDrain_LongRequestsEndAndOthersMayGoOn(t *testing.T) {
	release := make(chan struct{})
	h := start(t, func(stream agentStream) error {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		if first.GetHead().GetUpgrade() != "" {
			if err := respond(stream, 101); err != nil {
				return err
			}
			<-stream.Context().Done()
			return stream.Context().Err()
		}
		if err := respond(stream, 200, "begun\n"); err != nil {
			return err
		}
		select {
		case <-release:
			return say(stream, "done\n")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	})
	begin := func(path string) io.Reader {
		response, err := h.client.Do(h.request(http.MethodGet, path, nil))
		require.NoError(t, err)
		t.Cleanup(func() { _ = response.Body.Close() })
		read := bufio.NewReader(response.Body)
		text, err := read.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "begun\n", text)
		return read
	}
	watched := begin("/api/v1/pods?watch=true")
	followed := begin("/api/v1/namespaces/a/pods/b/log?follow=1")
	listed := begin("/api/v1/pods?watch=0")
	c, _ := h.connect("SPDY/3.1")
	h.drain()
	for _, read := range []io.Reader{watched, followed} {
		_, err := io.ReadAll(read)
		require.Error(t, err, "it did not come to its end")
	}
	c.ends()
	close(release)
	rest, err := io.ReadAll(listed)
	require.NoError(t, err)
	require.Equal(t, "done\n", string(rest))
	h.stop()
	_, err = h.client.Do(h.request(http.MethodGet, "/", nil)) //nolint:bodyclose // there is none
	require.Error(t, err)
}

func TestDrain_WhatDoesNotEndInTimeIsEnded(t *testing.T) {
	h := start(t, func(stream agentStream) error {
		if err := answering(200, "begun\n")(stream); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}, func(c *Config) { c.DrainGrace = 1 })
	response, err := h.client.Do(h.request(http.MethodGet, "/", nil))
	require.NoError(t, err)
	h.stop()
	_, err = io.ReadAll(response.Body)
	require.Error(t, err)
	_ = response.Body.Close()
}

func TestRunning_NothingBeginsWhileDraining(t *testing.T) {
	r := newRunning()
	_, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r.endLong()
	_, ok := r.enter(cancel, true)
	require.False(t, ok)
	leave, ok := r.enter(cancel, false)
	require.True(t, ok)
	end, ok := r.begin()
	require.True(t, ok)
	r.endAll()
	_, ok = r.enter(cancel, false)
	require.False(t, ok)
	_, ok = r.begin()
	require.False(t, ok)
	leave()
	end()
	r.wait()
	require.Empty(t, r.all)
	// Who comes then is told when to come again.
	h := start(t, answering(200))
	h.server.running.endAll()
	response, body := h.get("/")
	refused(t, response, body, 503, "kas is shutting down")
	require.Equal(t, "1", response.Header.Get("Retry-After"))
	h.quiet()
}
