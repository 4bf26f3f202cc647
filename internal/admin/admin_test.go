package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServer(t *testing.T) {
	var broken error
	s := &Server{
		Gatherer: NewRegistry(),
		Checks:   []Check{{Name: "configuration", Ready: func(context.Context) error { return broken }}},
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for path, want := range map[string]string{
		"/metrics":             "go_goroutines",
		"/liveness":            "ok",
		"/readiness":           "ok",
		"/debug/pprof/cmdline": "admin.test",
	} {
		if code, body := get(path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.80q, want 200 with %q", path, code, body, want)
		}
	}
	broken = errors.New("none received yet")
	if code, body := get("/readiness"); code != http.StatusServiceUnavailable || body != "configuration: none received yet\n" {
		t.Errorf("/readiness of what is not ready: %d %q", code, body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
