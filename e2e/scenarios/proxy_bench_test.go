package scenarios

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox"
)

// bulk is how much the benchmarks stream.
const bulk = 1 << 30

// BenchmarkProxy_Stream streams 1 GiB from a Service, which is this process, and from the log
// of a pod, which is on the disk's cache: directly from the API server and through the proxy,
// in turns. MB/s are 10^6; the ratio is that of the whole.
//
//	E2E_RACE=0 E2E_LOG_LEVEL=info go test -run '^$' -bench Proxy_Stream -benchtime 3x ./e2e/scenarios
func BenchmarkProxy_Stream(b *testing.B) {
	b.Run("service", func(b *testing.B) {
		f, kubectl := proxied(b, func(f *harness.Fixture) string {
			return asAgent(f) + "kubernetes_api:\n  services: [{namespace: " + f.Name + ", name: bulk}]\n"
		})
		serve(f, "bulk", http.HandlerFunc(writeBulk))
		compareStreams(b, f, kubectl, "/api/v1/namespaces/"+f.Name+"/services/bulk:web/proxy/")
	})
	b.Run("logs", func(b *testing.B) {
		f, kubectl := proxied(b, asAgent)
		pod := f.LivePod()
		if err := writeLog(pod); err != nil {
			b.Fatal(err)
		}
		compareStreams(b, f, kubectl, "/api/v1/namespaces/"+pod.Namespace+"/pods/"+pod.Name+"/log")
	})
}

func writeBulk(w http.ResponseWriter, _ *http.Request) {
	part := make([]byte, 1<<20)
	for range bulk / len(part) {
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

// writeLog fills the log of a pod, by lines so long that it is not their number that counts.
func writeLog(pod sandbox.LivePod) error {
	file, err := os.OpenFile(pod.LogFile, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("write a log: %w", err)
	}
	line := sandbox.LogLine(strings.Repeat("x", 64<<10-1))
	for range bulk / (64 << 10) {
		if _, err := file.WriteString(line); err != nil {
			return fmt.Errorf("write a log: %w", err)
		}
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("write a log: %w", err)
	}
	return nil
}

// compareStreams reads what is at the path of both, and says what that costs each process.
func compareStreams(b *testing.B, f *harness.Fixture, kubectl *harness.Kubectl, path string) {
	b.Helper()
	ours := map[string]int{"self": os.Getpid(), "agentk": f.Agentk.PID(), "kas": f.Stack.Kas.PID()}
	if c := f.Cluster.ControlPlane; c != nil {
		ours["apiserver"], ours["kwok"] = c.APIServer.PID(), c.Kwok.PID()
	}
	took, cpu := map[string]time.Duration{}, map[string]time.Duration{}
	round := func() {
		for name, kubeconfig := range map[string]string{"direct": f.Cluster.Kubeconfig, "proxy": kubectl.Kubeconfig} {
			base, c := client(f, kubeconfig)
			before := cpuTimes(b, ours)
			begun := time.Now()
			if err := readAll(b.Context(), c, base+path); err != nil {
				b.Fatalf("%s: %v", name, err)
			}
			took[name] += time.Since(begun)
			for process, after := range cpuTimes(b, ours) {
				cpu[name+"-"+process] += after - before[process]
			}
		}
	}
	round()
	clear(took)
	clear(cpu)
	b.ResetTimer()
	for range b.N {
		round()
	}
	b.StopTimer()
	total := float64(b.N) * bulk / 1e6
	for name, t := range took {
		b.ReportMetric(total/t.Seconds(), name+"-MB/s")
	}
	for name, t := range cpu {
		if cost := t.Seconds() / float64(b.N); cost >= 0.01 {
			b.ReportMetric(cost, name+"-cpu-s/GiB")
		}
	}
	b.ReportMetric(100*took["direct"].Seconds()/took["proxy"].Seconds(), "%-of-direct")
	b.ReportMetric(max(resident(f, f.Agentk.MetricsURL), resident(f, f.Stack.KasMetricsURL))/1e6, "max-RSS-MB")
}

// cpuTimes is how much of processors' time processes have had.
func cpuTimes(b *testing.B, pids map[string]int) map[string]time.Duration {
	b.Helper()
	const tick = time.Second / 100 // what Linux tells programs, whatever it has
	times := map[string]time.Duration{}
	for name, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ") // the name before may have spaces
		fields := strings.Fields(rest)
		for _, field := range fields[11:13] {
			n, err := strconv.Atoi(field)
			if err != nil {
				b.Fatal(err)
			}
			times[name] += time.Duration(n) * tick
		}
	}
	return times
}

// readAll reads 1 GiB and throws it away.
func readAll(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("GET: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if n != bulk {
		return fmt.Errorf("%d bytes came, want %d", n, bulk)
	}
	return nil
}

// resident is how much memory a program has, in bytes.
func resident(f *harness.Fixture, metricsURL string) float64 {
	f.T.Helper()
	return f.Metrics(metricsURL)["process_resident_memory_bytes"]
}

// BenchmarkProxy_Watches has 1,000 watches of ConfigMaps open through one agent; in each round
// one is made, and all must be told. Beside that as many watches of the API server itself.
//
//	E2E_RACE=0 E2E_LOG_LEVEL=info go test -run '^$' -bench Proxy_Watches -benchtime 10x ./e2e/scenarios
func BenchmarkProxy_Watches(b *testing.B) {
	const watches = 1000
	f, kas, kubectl := proxiedOfOwn(b, asAgent, func(config string) string {
		return strings.Replace(config, "  kubernetes_api:\n", "  kubernetes_api:\n    user_rate_limit: {refill_rate_per_second: 1000, bucket_size: 10000}\n", 1)
	})
	memory := func() (ofKas, ofAgentk float64) { return resident(f, kas.MetricsURL), resident(f, f.Agentk.MetricsURL) }
	kasBefore, agentkBefore := memory()
	var kasAfter, agentkAfter float64
	ctx, cancel := context.WithCancel(b.Context())
	group, ctx := errgroup.WithContext(ctx)
	told := map[string]chan struct{}{}
	opened := map[string]time.Duration{}
	for _, way := range []struct{ name, kubeconfig string }{{"proxy", kubectl.Kubeconfig}, {"direct", f.Cluster.Kubeconfig}} {
		base, c := client(f, way.kubeconfig)
		url := base + "/api/v1/namespaces/" + f.Name + "/configmaps?watch=true&resourceVersion=0&fieldSelector=metadata.name!%3Dkube-root-ca.crt"
		told[way.name] = make(chan struct{}, watches)
		begun := time.Now()
		for range watches {
			group.Go(func() error { return watchEvents(ctx, c, url, told[way.name]) })
		}
		for range watches { // that it was opened
			select {
			case <-told[way.name]:
			case <-ctx.Done():
				b.Fatal(group.Wait())
			}
		}
		opened[way.name] = time.Since(begun)
		if way.name == "proxy" {
			kasAfter, agentkAfter = memory()
		}
	}
	b.ResetTimer()
	all := map[string]time.Duration{}
	for i := range b.N {
		begun := time.Now()
		makeConfigMap(f, f.Name, fmt.Sprintf("told-%d", i), "value", nil)
		for _, way := range []string{"direct", "proxy"} { // both at the same time
			for range watches {
				select {
				case <-told[way]:
				case <-ctx.Done():
					b.Fatal(group.Wait())
				case <-time.After(harness.CommandTimeout):
					b.Fatalf("not all of %d watches were told", watches)
				}
			}
			all[way] += time.Since(begun)
		}
	}
	b.StopTimer()
	b.ReportMetric((kasAfter-kasBefore)/watches/1024, "kas-KiB/watch")
	b.ReportMetric((agentkAfter-agentkBefore)/watches/1024, "agentk-KiB/watch")
	for way, took := range all {
		b.ReportMetric(float64(took.Milliseconds())/float64(b.N), way+"-ms-until-all-told")
		b.ReportMetric(float64(opened[way].Milliseconds()), way+"-ms-to-open")
	}
	cancel()
	if err := group.Wait(); err != nil {
		b.Error(err)
	}
	nothingRuns(f, kas)
}

// watchEvents tells of the head of the answer, and of each event, until ctx ends.
func watchEvents(ctx context.Context, c *http.Client, url string, told chan<- struct{}) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("watch: %s", resp.Status)
	}
	told <- struct{}{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		told <- struct{}{}
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("a watch ended by itself: %w", lines.Err())
}
