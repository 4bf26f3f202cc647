package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/agentk/kubeapi"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/proxy"
)

// everybody may reach the agent's cluster, as the agent.
type everybody struct{}

func (everybody) AuthorizeProxyUser(_ context.Context, r gitlabapi.ProxyUserRequest) (gitlabapi.ProxyUser, error) {
	return gitlabapi.ProxyUser{Agent: gitlabapi.ConfiguredAgent{ID: r.AgentID}, AccessAs: gitlabapi.ProxyAccessAs{Agent: &struct{}{}}}, nil
}

func (everybody) AllowedAgents(context.Context, string) (gitlabapi.AllowedAgents, error) {
	return gitlabapi.AllowedAgents{}, gitlabapi.ErrUnauthorized
}

func (everybody) Allow(context.Context, string) (bool, time.Duration) { return true, 0 }

// proxied is an API server that is reached directly, or through both ends.
type proxied struct {
	api    *httptest.Server
	url    string // of the proxy
	client *http.Client
	stop   func() // ends the proxy as SIGTERM does
}

func newProxied(tb testing.TB, handler http.Handler) *proxied {
	tb.Helper()
	r := newRig(tb, transports[0])
	p := &proxied{api: httptest.NewServer(handler), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}}}
	agent, err := kubeapi.NewServer(kubeapi.Config{RESTConfig: &rest.Config{Host: p.api.URL}})
	require.NoError(tb, err)
	r.connect(&service{}, func(s grpc.ServiceRegistrar) { agentrpc.RegisterKubernetesApiServer(s, agent) })
	server, err := proxy.NewServer(proxy.Config{AgentWait: time.Minute}, proxy.Collaborators{
		RoR: everybody{}, Agents: r.kas, Limiter: everybody{}, Registerer: prometheus.NewRegistry(), Log: testkit.Logger(tb),
	})
	require.NoError(tb, err)
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	p.url = "http://" + l.Addr().String() + "/k8s-proxy"
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx, l) }()
	p.stop = func() {
		p.client.CloseIdleConnections()
		cancel()
		require.NoError(tb, <-ran)
	}
	tb.Cleanup(func() {
		p.stop()
		agent.Close()
		p.api.Close()
	})
	return p
}

// do makes a request, at the proxy or directly.
func (p *proxied) do(ctx context.Context, base, method, path string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", fmt.Sprintf("Bearer pat:%d:anything", agentID))
	return p.client.Do(request)
}

const volume = 256 << 20

// endless answers with volume bytes, and takes what it is sent.
func endless(w http.ResponseWriter, r *http.Request) {
	part := bytes.Repeat([]byte("x"), 32<<10)
	if r.Method == http.MethodPost {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
		return
	}
	for range volume / len(part) {
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

// BenchmarkProxy is 256 MiB down and up through the Kubernetes API proxy, beside the same
// without it.
func BenchmarkProxy(b *testing.B) {
	p := newProxied(b, http.HandlerFunc(endless))
	for _, way := range []struct{ name, base string }{{"direct", p.api.URL}, {"proxy", p.url}} {
		b.Run("down/"+way.name, func(b *testing.B) {
			b.SetBytes(volume)
			for b.Loop() {
				response, err := p.do(b.Context(), way.base, http.MethodGet, "/logs", nil)
				require.NoError(b, err)
				n, err := io.Copy(io.Discard, response.Body)
				require.NoError(b, err)
				require.EqualValues(b, volume, n)
				_ = response.Body.Close()
			}
		})
	}
	for _, way := range []struct{ name, base string }{{"direct", p.api.URL}, {"proxy", p.url}} {
		b.Run("up/"+way.name, func(b *testing.B) {
			b.SetBytes(volume)
			data := make([]byte, volume)
			for b.Loop() {
				response, err := p.do(b.Context(), way.base, http.MethodPost, "/x", bytes.NewReader(data))
				require.NoError(b, err)
				text, err := io.ReadAll(response.Body)
				require.NoError(b, err)
				require.Equal(b, fmt.Sprint(volume), string(text))
				_ = response.Body.Close()
			}
		})
	}
	for _, way := range []struct{ name, base string }{{"direct", p.api.URL}, {"proxy", p.url}} {
		b.Run("small/"+way.name, func(b *testing.B) {
			for b.Loop() {
				response, err := p.do(b.Context(), way.base, http.MethodPost, "/x", bytes.NewReader([]byte("abc")))
				require.NoError(b, err)
				_, err = io.ReadAll(response.Body)
				require.NoError(b, err)
				_ = response.Body.Close()
			}
		})
	}
}

func TestProxy_ManyWatchesOfOneAgent(t *testing.T) {
	const count = 1500
	var open atomic.Int64
	all := make(chan struct{})
	p := newProxied(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flusher := http.NewResponseController(w)
		w.WriteHeader(http.StatusOK)
		_ = flusher.Flush()
		if open.Add(1) == count {
			close(all)
		}
		select {
		case <-all:
		case <-r.Context().Done():
			return
		}
		_, _ = io.WriteString(w, "an event\n")
		_ = flusher.Flush()
		<-r.Context().Done() // a watch goes on
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen atomic.Int64
	// One that is refused ends them all: the others would wait for it.
	g, ctx := errgroup.WithContext(ctx)
	for range count {
		g.Go(func() error {
			response, err := p.do(ctx, p.url, http.MethodGet, "/api/v1/pods?watch=1", nil)
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			line, err := bufio.NewReader(response.Body).ReadString('\n')
			if err != nil {
				return fmt.Errorf("%d: %w", response.StatusCode, err)
			}
			if line != "an event\n" {
				return fmt.Errorf("got %d and %q", response.StatusCode, line)
			}
			if seen.Add(1) == count {
				cancel()
			}
			<-ctx.Done()
			return nil
		})
	}
	require.NoError(t, g.Wait())
}

func TestProxy_WhatGoesInComesOut(t *testing.T) {
	p := newProxied(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	}))
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18)
	response, err := p.do(t.Context(), p.url, http.MethodPost, "/echo", io.MultiReader(bytes.NewReader(data), bytes.NewReader(data[:777])))
	require.NoError(t, err)
	got, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, sha256.Sum256(append(data, data[:777]...)), sha256.Sum256(got))
}
