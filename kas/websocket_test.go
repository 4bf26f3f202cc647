package kas

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/wstransport"
)

func TestRun_ServesAgentsByWebSocket(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	writePair(t, certFile, keyFile, "kas")
	pem, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for scheme, listen := range map[string]string{
		"ws":  `{address: "127.0.0.1:0", websocket: true}`,
		"wss": `{address: "127.0.0.1:0", websocket: true, certificate_file: ` + certFile + ", key_file: " + keyFile + "}",
	} {
		t.Run(scheme, func(t *testing.T) {
			kas := startEach(t, listen, `{address: "127.0.0.1:0"}`)
			where, err := url.Parse(scheme + "://" + kas.Agent + "/any/path")
			if err != nil {
				t.Fatal(err)
			}
			d := &wstransport.Dialer{URL: where, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
			conn, err := grpc.NewClient("passthrough:///kas", grpc.WithContextDialer(d.Dial), grpc.WithTransportCredentials(d.Credentials()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			client := agentrpc.NewAgentConfigurationClient(conn)
			stranger, err := client.Watch(bearing(t, "bad"), &agentrpc.WatchRequest{})
			if err == nil {
				_, err = stranger.Recv()
			}
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("a stranger got %v", err)
			}
			watch, err := client.Watch(bearing(t, "good"), &agentrpc.WatchRequest{AgentMeta: &agentrpc.AgentMeta{InstanceId: 5}})
			if err != nil {
				t.Fatal(err)
			}
			if header, err := watch.Header(); err != nil || header == nil {
				t.Fatalf("was not let in: %v, %v", header, err)
			}
			stopped := make(chan error, 1)
			go func() { stopped <- kas.stop() }()
			if _, err := watch.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "kas is shutting down") {
				t.Errorf("ended with %v", err)
			}
			if err := <-stopped; err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
