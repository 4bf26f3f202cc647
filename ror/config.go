package ror

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/internal/tracing"
)

// Config is how RoR is run.
type Config struct {
	// ListenAddress is HOST:PORT; port 0 takes a free one.
	ListenAddress string
	// ObservabilityListenAddress is HOST:PORT for operators: metrics, probes and profiles.
	// Empty: nowhere.
	ObservabilityListenAddress string
	// ExternalURL is where browsers and Git reach RoR.
	ExternalURL string
	// Database is the path of the database file.
	Database string

	// GitalyAddress is tcp://HOST:PORT, tls://HOST:PORT or unix:PATH. kas is told the
	// same address.
	GitalyAddress string
	// GitalyTokenFile holds Gitaly's token.
	GitalyTokenFile string
	// GitalyStorage is the storage for new repositories.
	GitalyStorage string

	// KasAPIAddress is HOST:PORT of kas's API for RoR.
	KasAPIAddress string
	// KasAgentAddress is what agentk is started with, for people to copy.
	KasAgentAddress string
	// KasProxyURL is where people reach kas's Kubernetes API proxy, its path prefix
	// included. Empty: nobody is told of it.
	KasProxyURL string
	// KasProxyCAFile holds, in PEM, who vouches for the proxy's certificate, for people whose
	// systems do not know. Empty: they do.
	KasProxyCAFile string
	// KasSecretFile holds the base64 of the secret shared with kas.
	KasSecretFile string
	// GitlabShellSecretFile is the file that Gitaly's [gitlab] secret_file names.
	GitlabShellSecretFile string

	// Bootstrap is the first user. Without a name there is none.
	Bootstrap Bootstrap

	// Tracing says where traces go.
	Tracing tracing.Options
}

// Bootstrap is the first user, an admin, made when missing.
type Bootstrap struct {
	User         string
	PasswordFile string
	// TokenFile holds a personal access token for the user. Empty: none.
	TokenFile string
}

// DefaultConfig holds the defaults of the flags.
func DefaultConfig() Config {
	return Config{
		ListenAddress: "127.0.0.1:3000",
		Database:      "ror.db",
		GitalyStorage: "default",
		KasAPIAddress: "127.0.0.1:8153",
	}
}

// verify checks what can be checked without reading files, and fills in what follows
// from the rest.
func (c *Config) verify() error {
	for _, required := range []struct{ flag, value string }{
		{"listen-address", c.ListenAddress},
		{"external-url", c.ExternalURL},
		{"database", c.Database},
		{"gitaly-address", c.GitalyAddress},
		{"gitaly-token-file", c.GitalyTokenFile},
		{"gitaly-storage", c.GitalyStorage},
		{"kas-api-address", c.KasAPIAddress},
		{"kas-secret-file", c.KasSecretFile},
		{"gitlab-shell-secret-file", c.GitlabShellSecretFile},
	} {
		if required.value == "" {
			return fmt.Errorf("--%s is required", required.flag)
		}
	}
	u, err := url.Parse(c.ExternalURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("--external-url %q: want http[s]://HOST[:PORT] without a path", c.ExternalURL)
	}
	c.ExternalURL = u.Scheme + "://" + u.Host
	if c.KasProxyURL != "" {
		p, err := url.Parse(c.KasProxyURL)
		if err != nil || (p.Scheme != "http" && p.Scheme != "https") || p.Host == "" || p.RawQuery+p.Fragment != "" || p.User != nil {
			return fmt.Errorf("--kas-proxy-url %q: want http[s]://HOST[:PORT]/PREFIX/", c.KasProxyURL)
		}
	}
	if c.Bootstrap.User != "" && c.Bootstrap.PasswordFile == "" {
		return errors.New("--bootstrap-user needs --bootstrap-password-file")
	}
	if c.KasAgentAddress == "" {
		c.KasAgentAddress = "grpcs://KAS-ADDRESS"
	}
	return nil
}

// secrets is what the files hold.
type secrets struct {
	gitalyToken string
	kas         []byte
	shell       []byte
	password    string
	token       string
	// proxyCA is in PEM and not secret.
	proxyCA string
}

func (c *Config) readSecrets() (secrets, error) {
	var s secrets
	var err error
	if s.kas, err = jwtauth.LoadSecret(c.KasSecretFile); err != nil {
		return secrets{}, fmt.Errorf("--kas-secret-file: %w", err)
	}
	var shell string
	for _, file := range []struct {
		flag, path string
		into       *string
	}{
		{"gitaly-token-file", c.GitalyTokenFile, &s.gitalyToken},
		{"gitlab-shell-secret-file", c.GitlabShellSecretFile, &shell},
		{"bootstrap-password-file", c.Bootstrap.PasswordFile, &s.password},
		{"bootstrap-token-file", c.Bootstrap.TokenFile, &s.token},
		{"kas-proxy-ca-file", c.KasProxyCAFile, &s.proxyCA},
	} {
		if file.path == "" {
			continue
		}
		content, err := os.ReadFile(file.path)
		if err != nil {
			return secrets{}, fmt.Errorf("--%s: %w", file.flag, err)
		}
		if *file.into = string(bytes.TrimSpace(content)); *file.into == "" {
			return secrets{}, fmt.Errorf("--%s: file %s is empty", file.flag, file.path)
		}
	}
	if s.proxyCA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.proxyCA)) {
		return secrets{}, fmt.Errorf("--kas-proxy-ca-file: file %s holds no certificate in PEM", c.KasProxyCAFile)
	}
	s.shell = []byte(shell)
	return s, nil
}
