package kas

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// asProcess in the environment makes the test binary be kas.
const asProcess = "KAS_TEST_AS_PROCESS"

// process is kas as a process of its own, so that its memory is its own.
type process struct {
	agent, observability string
	repository           *fakeGitaly
	// credentials by which agents trust it.
	credentials credentials.TransportCredentials
	configFile  string
	// end it by a signal, and wait for that.
	end func(os.Signal)
}

// benchRails knows agents by tokens "<number>", and one project.
func benchRails(gitaly string) http.Handler {
	where := gitlabapi.GitalyInfo{Address: gitaly}
	repo := gitlabapi.GitalyRepository{StorageName: "default", RelativePath: "a.git", GlProjectPath: "a/b"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.ParseInt(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), 10, 64)
		switch r.URL.Path {
		case gitlabapi.PathAgentInfo:
			_ = json.NewEncoder(w).Encode(gitlabapi.AgentInfo{AgentID: id, ProjectID: 1, AgentName: fmt.Sprint("agent-", id), GitalyInfo: where, GitalyRepository: repo})
		case gitlabapi.PathProjectInfo:
			_ = json.NewEncoder(w).Encode(gitlabapi.ProjectInfo{ProjectID: 1, GitalyInfo: where, GitalyRepository: repo})
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
}

// startProcess starts kas; the repository holds objects.
func startProcess(tb testing.TB, objects int) *process {
	tb.Helper()
	p := &process{repository: &fakeGitaly{configuration: "gitops: {manifest_projects: [{id: a/b}]}\n"}}
	files := map[string]string{}
	for i := range objects {
		files[fmt.Sprintf("dir-%d/%d.yaml", i%10, i)] = benchManifest(i, 0)
	}
	p.repository.put(files)
	rails := httptest.NewServer(benchRails(p.repository.serve(tb)))
	tb.Cleanup(rails.Close)
	dir := tb.TempDir()
	secretFile, configFile := filepath.Join(dir, "secret"), filepath.Join(dir, "kas.yaml")
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(tb, certFile, keyFile, "kas")
	var err error
	if p.credentials, err = credentials.NewClientTLSFromFile(certFile, ""); err != nil {
		tb.Fatal(err)
	}
	for path, text := range map[string]string{
		secretFile: base64.StdEncoding.EncodeToString(secret),
		configFile: fmt.Sprintf(`
gitlab: {address: %q, authentication_secret_file: %q, api_rate_limit: {refill_rate_per_second: 10000, bucket_size: 10000}}
agent: {listen: {address: "127.0.0.1:0", certificate_file: %q, key_file: %q}, configuration: {poll_period: 1s}, gitops: {poll_period: 100ms}}
api: {listen: {address: "127.0.0.1:0"}}
observability: {listen: {address: "127.0.0.1:0"}}
`, rails.URL, secretFile, certFile, keyFile),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	p.configFile = configFile
	p.start(tb)
	tb.Cleanup(func() { p.end(syscall.SIGTERM) })
	return p
}

// start starts the process.
func (p *process) start(tb testing.TB) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), os.Args[0], "--configuration-file="+p.configFile)
	cmd.Env = append(os.Environ(), asProcess+"=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	type where struct{ Msg, Agent, Observability string }
	listening, read := make(chan where, 1), make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			var line where
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "Listening" {
				listening <- line
			}
		}
	}()
	p.end = func(signal os.Signal) {
		_ = cmd.Process.Signal(signal)
		<-read
		_ = cmd.Wait()
	}
	select {
	case line := <-listening:
		p.agent, p.observability = line.Agent, line.Observability
	case <-read:
		tb.Fatal("kas did not start")
	}
}

// restart kills the process and starts another at the same address.
func (p *process) restart(tb testing.TB) {
	tb.Helper()
	p.end(syscall.SIGKILL)
	config, err := os.ReadFile(p.configFile)
	if err == nil {
		config = bytes.Replace(config, []byte(`agent: {listen: {address: "127.0.0.1:0"`), []byte(`agent: {listen: {address: "`+p.agent+`"`), 1)
		err = os.WriteFile(p.configFile, config, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
	p.start(tb)
}

func benchManifest(i, version int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c-%d}\ndata: {version: %q, text: %q}\n", i, fmt.Sprint(version), strings.Repeat("x", 500))
}

// connect is an agent: a connection, a Watch that has its configuration, an idle stream of
// the tunnel, and a Sync stream.
func (p *process) connect(ctx context.Context, id int) (*grpc.ClientConn, grpc.BidiStreamingClient[agentrpc.ConnectRequest, agentrpc.ConnectResponse], error) {
	conn, err := grpc.NewClient(p.agent, grpc.WithTransportCredentials(p.credentials))
	if err != nil {
		return nil, nil, err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", fmt.Sprint("Bearer ", id))
	watch, err := agentrpc.NewAgentConfigurationClient(conn).Watch(ctx, &agentrpc.WatchRequest{AgentMeta: &agentrpc.AgentMeta{InstanceId: int64(id), Version: "v1"}})
	if err != nil {
		return conn, nil, err
	}
	if _, err := watch.Recv(); err != nil {
		return conn, nil, err
	}
	tunnel, err := agentrpc.NewReverseTunnelClient(conn).Connect(ctx)
	if err != nil {
		return conn, nil, err
	}
	if err := tunnel.Send(&agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{Services: []string{"agentrpc.ClusterQuery"}}}); err != nil {
		return conn, nil, err
	}
	if _, err := tunnel.Header(); err != nil {
		return conn, nil, err
	}
	sync, err := agentrpc.NewSyncClient(conn).Connect(ctx)
	if err != nil {
		return conn, nil, err
	}
	return conn, sync, sync.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{
		Hello: &agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: "a/b"}},
	}})
}

// receive reads a whole set and returns its header and when it was whole.
func receive(sync grpc.BidiStreamingClient[agentrpc.ConnectRequest, agentrpc.ConnectResponse]) (*agentrpc.Header, time.Time, error) {
	var header *agentrpc.Header
	for {
		response, err := sync.Recv()
		if err != nil {
			return nil, time.Time{}, err
		}
		if h := response.GetHeader(); h != nil {
			header = h
		}
		if response.GetTrailer() != nil {
			return header, time.Now(), nil
		}
	}
}

// get what the observability listener serves.
func (p *process) get(tb testing.TB, path string) []byte {
	tb.Helper()
	response, err := http.Get("http://" + p.observability + path)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		tb.Fatal(err)
	}
	return body.Bytes()
}

// metrics by their names with labels.
func (p *process) metrics(tb testing.TB) map[string]float64 {
	tb.Helper()
	values := map[string]float64{}
	for line := range strings.Lines(string(p.get(tb, "/metrics"))) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			values[name] = value
		}
	}
	return values
}

// memory is the metrics of what kas needs, in bytes, after a collection of garbage.
func (p *process) memory(tb testing.TB) map[string]float64 {
	tb.Helper()
	for range 3 { // pools are emptied by the second
		p.get(tb, "/debug/pprof/heap?gc=1")
	}
	return p.metrics(tb)
}

// BenchmarkRun_MemoryPerAgent connects 1,000 agents that follow one repository of 100
// objects, each by a TLS connection of its own with a Watch, a Sync and a tunnel stream.
func BenchmarkRun_MemoryPerAgent(b *testing.B) {
	const count = 1000
	for b.Loop() {
		p := startProcess(b, 100)
		first, sync, err := p.connect(b.Context(), count+1) // what is needed once is not counted
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := receive(sync); err != nil {
			b.Fatal(err)
		}
		before := p.memory(b)
		conns := make([]*grpc.ClientConn, count)
		var g errgroup.Group
		g.SetLimit(50)
		for i := range conns {
			g.Go(func() error {
				conn, sync, err := p.connect(b.Context(), i+1)
				if conns[i] = conn; err != nil {
					return err
				}
				_, _, err = receive(sync)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
		after := p.memory(b)
		for after["kas_status_unposted"] > 0 {
			after = p.memory(b)
		}
		if after["kas_connected_agents"] != count+1 || after["kas_push_streams"] != count+1 {
			b.Fatalf("%v agents, %v streams", after["kas_connected_agents"], after["kas_push_streams"])
		}
		for name, unit := range map[string]string{
			"process_resident_memory_bytes": "rss-B/agent", "go_memstats_alloc_bytes": "heap-B/agent",
			"go_memstats_stack_inuse_bytes": "stack-B/agent", "go_goroutines": "goroutines/agent",
		} {
			b.ReportMetric((after[name]-before[name])/count, unit)
		}
		for _, conn := range conns {
			_ = conn.Close()
		}
		_ = first.Close()
	}
}

// BenchmarkRun_OneOfAThousandChanged is the time from the poll that saw a commit, in which
// one file of 1,000 changed, until an agent has the whole set.
func BenchmarkRun_OneOfAThousandChanged(b *testing.B) {
	p := startProcess(b, 1000)
	conn, sync, err := p.connect(b.Context(), 1)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, _, err := receive(sync); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		n := len(took)
		commit := p.repository.put(map[string]string{fmt.Sprintf("dir-%d/%d.yaml", n%10, n%1000): benchManifest(n%1000, n+1)})
		header, at, err := receive(sync)
		if err != nil || header.GetCommitId() != commit {
			b.Fatalf("got %v, %v", header, err)
		}
		took = append(took, at.Sub(header.GetDetectedAt().AsTime()))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
