// Package admin serves what operators and probes ask of a process over HTTP:
//
//	/metrics       Prometheus metrics
//	/liveness      200 while the process works at all
//	/readiness     200 when every readiness check passes, else 503 and which failed
//	/debug/pprof/  profiles
//
// It is meant for a port that only operators reach.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// shutdownGrace is how long requests in flight get when the server stops.
const shutdownGrace = 5 * time.Second

// Check is one readiness check.
type Check struct {
	// Name says what is checked, for example "configuration".
	Name string
	// Ready returns nil when the process may get work.
	Ready func(context.Context) error
}

// Server serves the endpoints above. Its fields must not change once Run is called.
type Server struct {
	Gatherer prometheus.Gatherer
	Checks   []Check
}

// Run serves on l until ctx ends, and closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 10 * time.Second,
	}
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		done <- srv.Shutdown(grace)
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics and probes: %w", err)
	}
	if err := <-done; err != nil {
		return fmt.Errorf("stop serving metrics and probes: %w", err)
	}
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /liveness", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readiness", s.readiness)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func (s *Server) readiness(w http.ResponseWriter, r *http.Request) {
	for _, c := range s.Checks {
		if err := c.Ready(r.Context()); err != nil {
			http.Error(w, fmt.Sprintf("%s: %v", c.Name, err), http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}

// NewRegistry returns a registry that holds the Go runtime's and the process's metrics.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
