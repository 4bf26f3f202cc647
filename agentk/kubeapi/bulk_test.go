package kubeapi

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
)

const logURL = "/api/v1/namespaces/a/pods/b/log"

func TestBulk_LogsAndServicesComeByHTTP1(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.ProtoMajor) }, overTLS)
	r.server.Configure(&agentcfg.KubernetesApi{Services: []*agentcfg.ProxiedService{{Namespace: "a", Name: "b"}}})
	for _, row := range []struct{ name, method, url, want string }{
		{"a log", "GET", logURL + "?container=c&tailLines=5", "1"},
		{"a log that is followed lasts, and is quiet for long", "GET", logURL + "?follow=true", "2"},
		{"what a Service says", "GET", "/api/v1/namespaces/a/services/b:80/proxy/x", "1"},
		{"what a Service is sent, which it may answer meanwhile", "POST", "/api/v1/namespaces/a/services/b:80/proxy/x", "2"},
		{"a list", "GET", "/api/v1/namespaces/a/pods?limit=5", "2"},
		{"a watch", "GET", "/api/v1/namespaces/a/pods?watch=true", "2"},
		{"a pod called log", "GET", "/api/v1/namespaces/a/pods/log", "2"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, _, body, err := r.get(&agentrpc.HttpRequestHead{Method: row.method, Url: row.url})
			require.NoError(t, err)
			require.Equal(t, row.want, body)
		})
	}
}

// What has come is never held back for what is not on its way.
func TestBulk_NothingIsWaitedForThatIsNotOnItsWay(t *testing.T) {
	for name, options := range map[string][]option{"plaintext": nil, "TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := make(chan struct{})
			sizes := []int{1, 100, leastAhead - 1, leastAhead, leastAhead + 1, 16 << 10, 16<<10 + 1, 40 << 10, aheadSize, 3*aheadSize + 5}
			r := start(t, func(w http.ResponseWriter, r *http.Request) {
				for _, size := range sizes {
					_, _ = io.WriteString(w, strings.Repeat("x", size))
					_ = http.NewResponseController(w).Flush()
					select {
					case <-got:
					case <-r.Context().Done():
						return
					}
				}
			}, options...)
			c := r.begin(&agentrpc.HttpRequestHead{Url: logURL, ContentLength: proto.Int64(0)})
			c.head()
			for _, size := range sizes {
				c.expect(strings.Repeat("x", size))
				got <- struct{}{}
			}
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func TestBulk_LargeAnswersComeWhole(t *testing.T) {
	part := make([]byte, 60<<10)
	for i := range part {
		part[i] = byte(i ^ i>>8)
	}
	const parts = 50
	r := start(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range parts {
			_, _ = w.Write(part[i:])
		}
	}, overTLS)
	for range 3 { // on the same connection, too
		_, _, body, err := r.get(&agentrpc.HttpRequestHead{Url: logURL})
		require.NoError(t, err)
		for i := range parts {
			require.True(t, strings.HasPrefix(body, string(part[i:])), i)
			body = body[len(part)-i:]
		}
		require.Empty(t, body)
	}
}

func TestBulk_AnAnswerThatBreaksOffNeverLooksWhole(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
		panic(http.ErrAbortHandler)
	}, overTLS)
	_, _, body, err := r.get(&agentrpc.HttpRequestHead{Url: logURL})
	require.Error(t, err)
	require.LessOrEqual(t, len(body), 100<<10)
}
