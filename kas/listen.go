package kas

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/kas-agentk/kas/api/kascfg"
)

// Addresses are where kas listens: with the ports that port 0 became.
type Addresses struct {
	Agent, API, Observability string
}

// listeners are open, and nobody serves them yet.
type listeners struct {
	agent, api, observability net.Listener
}

func (l *listeners) addresses() Addresses {
	return Addresses{
		Agent:         l.agent.Addr().String(),
		API:           l.api.Addr().String(),
		Observability: l.observability.Addr().String(),
	}
}

// close closes those that are open; servers close theirs by themselves.
func (l *listeners) close() {
	for _, one := range []net.Listener{l.agent, l.api, l.observability} {
		if one != nil {
			_ = one.Close() // nothing is lost with it
		}
	}
}

func listenAll(ctx context.Context, cfg *kascfg.ConfigurationFile) (*listeners, error) {
	l := &listeners{}
	for _, one := range []struct {
		key  string
		cfg  *kascfg.Listen
		into *net.Listener
	}{
		{"agent.listen", cfg.GetAgent().GetListen(), &l.agent},
		{"api.listen", cfg.GetApi().GetListen(), &l.api},
		{"observability.listen", cfg.GetObservability().GetListen(), &l.observability},
	} {
		opened, err := (&net.ListenConfig{}).Listen(ctx, one.cfg.GetNetwork(), one.cfg.GetAddress())
		if err != nil {
			l.close()
			return nil, fmt.Errorf("%s: %w", one.key, err)
		}
		*one.into = opened
	}
	return l, nil
}

// serverTLS returns what a listener's certificate asks for; nil: plaintext.
func serverTLS(key string, l *kascfg.Listen) (*tls.Config, error) {
	if l.GetCertificateFile() == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(l.GetCertificateFile(), l.GetKeyFile())
	if err != nil {
		return nil, fmt.Errorf("%s: load certificate_file and key_file: %w", key, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}, nil
}

// rootCAs returns the system's authorities and those of a file; nil: only the system's.
func rootCAs(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("gitlab.ca_certificate_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("gitlab.ca_certificate_file: %w", errors.New(path+" holds no PEM certificate"))
	}
	return pool, nil
}
