package tunnel

import (
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/agentk/kubeapi"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// BenchmarkKubernetesAPI is 256 MiB of an answer of an API server that speaks TLS and HTTP/2:
// asked directly, and through both ends of the tunnel, where nobody does anything with what
// comes. They take turns. CPU time is that of all parts, which are in this process.
func BenchmarkKubernetesAPI(b *testing.B) {
	api := httptest.NewUnstartedServer(http.HandlerFunc(endless))
	api.EnableHTTP2 = true
	api.StartTLS()
	b.Cleanup(api.Close)
	cfg := &rest.Config{Host: api.URL, TLSClientConfig: rest.TLSClientConfig{
		CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}),
	}}
	agent, err := kubeapi.NewServer(kubeapi.Config{RESTConfig: cfg})
	require.NoError(b, err)
	r := newRig(b, transports[0])
	r.connect(&service{}, func(s grpc.ServiceRegistrar) { agentrpc.RegisterKubernetesApiServer(s, agent) })
	b.Cleanup(agent.Close)
	client, err := rest.HTTPClientFor(cfg)
	require.NoError(b, err)

	ways := []struct {
		name string
		read func() int
	}{
		{"direct", func() int { return readDirectly(b, client, api.URL+"/logs") }},
		{"tunnel", func() int { return readThrough(b, agentrpc.NewKubernetesApiClient(r.kas.Conn(agentID))) }},
	}
	wall, cpu, rounds := make([]time.Duration, len(ways)), make([]time.Duration, len(ways)), 0
	for b.Loop() {
		rounds++
		for i, way := range ways {
			began, busy := time.Now(), cpuTime(b)
			require.Equal(b, volume, way.read())
			wall[i] += time.Since(began)
			cpu[i] += cpuTime(b) - busy
		}
	}
	gib := float64(rounds) * volume / (1 << 30)
	for i, way := range ways {
		b.ReportMetric(gib*1024/wall[i].Seconds(), way.name+"-MiB/s")
		b.ReportMetric(cpu[i].Seconds()/gib, way.name+"-cpu-s/GiB")
	}
}

func readDirectly(b *testing.B, client *http.Client, url string) int {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	require.NoError(b, err)
	response, err := client.Do(request)
	require.NoError(b, err)
	n, err := io.Copy(io.Discard, response.Body)
	require.NoError(b, err)
	require.NoError(b, response.Body.Close())
	return int(n)
}

func readThrough(b *testing.B, client agentrpc.KubernetesApiClient) (n int) {
	b.Helper()
	stream, err := client.Do(b.Context())
	require.NoError(b, err)
	require.NoError(b, stream.Send(&agentrpc.HttpRequest{Head: &agentrpc.HttpRequestHead{Method: http.MethodGet, Url: "/logs", ContentLength: proto.Int64(0)}}))
	require.NoError(b, stream.CloseSend())
	first, err := stream.Recv()
	require.NoError(b, err)
	require.EqualValues(b, http.StatusOK, first.GetHead().GetStatus())
	for {
		var part grpctool.Raw
		if err := stream.RecvMsg(&part); errors.Is(err, io.EOF) {
			return n
		} else if err != nil {
			b.Fatal(err)
		}
		n += len(part.Data) - before(len(part.Data))
	}
}

// before is how many bytes of an encoded HttpResponse stand before its data.
func before(size int) int {
	n := 2 // tag, and one byte of length
	for left := (size - n) >> 7; left > 0; left >>= 7 {
		n++
	}
	return n
}

// cpuTime is what this process has used.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
