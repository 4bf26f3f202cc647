package rails

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/internal/version"
)

const (
	// maxResponse is the largest answer that is read, in bytes.
	maxResponse = 1 << 20
	// maxMessage is how much of RoR's own words an error carries, in bytes.
	maxMessage = 500
	// pingAfter is how long an HTTP/2 connection may be silent before it is asked whether
	// it lives; pingTimeout is how long the answer may take.
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second
	// DefaultTimeout bounds a request, waiting for its turn and reading the answer
	// included.
	DefaultTimeout = 20 * time.Second
)

// ClientConfig is how RoR is reached.
type ClientConfig struct {
	// Address is RoR's URL. A path in it is kept in front of the API's.
	Address string
	// Secret signs the requests.
	Secret []byte
	// RootCAs are trusted for https. Nil: the system's.
	RootCAs *x509.CertPool
	// Limit and Burst bound the requests per second.
	Limit rate.Limit
	Burst int
	// Timeout of a request. Zero: DefaultTimeout.
	Timeout time.Duration
	// Transport, unless nil, is put around what sends the requests.
	Transport func(http.RoundTripper) http.RoundTripper
	// Clock dates the requests' tokens.
	Clock clock.PassiveClock
}

// Client talks to RoR's internal API. It is safe for concurrent use.
type Client struct {
	base     *url.URL
	secret   []byte
	clock    clock.PassiveClock
	timeout  time.Duration
	limiter  *rate.Limiter
	http     *http.Client
	idle     func()
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// NewClient checks cfg; it does not connect. Close the client when done.
func NewClient(cfg ClientConfig, registerer prometheus.Registerer) (*Client, error) {
	base, err := url.Parse(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("address of RoR: %w", err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("address of RoR: %q is not an http:// or https:// URL", cfg.Address)
	}
	if base.User != nil {
		return nil, errors.New("address of RoR: it must not hold a user or password")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	direct := transport(cfg.RootCAs)
	var through http.RoundTripper = direct
	if cfg.Transport != nil {
		through = cfg.Transport(direct)
	}
	c := &Client{
		base:    base,
		secret:  cfg.Secret,
		clock:   cfg.Clock,
		timeout: cfg.Timeout,
		limiter: rate.NewLimiter(cfg.Limit, cfg.Burst),
		idle:    direct.CloseIdleConnections,
		http: &http.Client{
			Transport: through,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_rails_requests_total",
			Help: "Requests to RoR's internal API, by endpoint and HTTP status; \"error\" where none came.",
		}, []string{"endpoint", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kas_rails_request_seconds",
			Help:    "Time until RoR's answer was read, by endpoint, without the wait for the rate limit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"endpoint"}),
	}
	if err := register(registerer, c.requests, c.seconds); err != nil {
		return nil, err
	}
	return c, nil
}

func register(registerer prometheus.Registerer, all ...prometheus.Collector) error {
	for _, one := range all {
		if err := registerer.Register(one); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

func transport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
		// A connection that died in silence would otherwise fail every request on it, for
		// as long as the kernel goes on trying.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.idle() }

// call is one request of the API.
type call struct {
	method string
	// path below the address, one of gitlabapi's; it names the endpoint in metrics.
	path  string
	query url.Values
	// token of the agent on whose behalf kas asks; or empty.
	token string
	// jobToken of the CI job on whose behalf kas asks; or empty.
	jobToken string
	// body is JSON; or nil.
	body []byte
	// into takes the answer; nil where none is expected.
	into any
}

func (c *Client) do(ctx context.Context, what call) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := c.limiter.Wait(ctx); err != nil {
		return newError(what, 0, "too many requests of kas wait for RoR (gitlab.api_rate_limit)", err)
	}
	request, err := c.request(ctx, what)
	if err != nil {
		return newError(what, 0, "", err)
	}
	began := time.Now()
	response, err := c.http.Do(request)
	if err != nil {
		c.requests.WithLabelValues(what.path, "error").Inc()
		return newError(what, 0, "", withoutURL(err))
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	c.requests.WithLabelValues(what.path, strconv.Itoa(response.StatusCode)).Inc()
	c.seconds.WithLabelValues(what.path).Observe(time.Since(began).Seconds())
	switch {
	case response.StatusCode/100 != 2:
		return newError(what, response.StatusCode, messageOf(response, body), nil)
	case err != nil:
		return newError(what, response.StatusCode, "", fmt.Errorf("read the answer: %w", err))
	case len(body) > maxResponse:
		return newError(what, response.StatusCode, fmt.Sprintf("the answer is larger than %d bytes", maxResponse), nil)
	case what.into == nil:
		return nil
	}
	if err := json.Unmarshal(body, what.into); err != nil {
		return newError(what, response.StatusCode, "the answer is not what the API promises", err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, what call) (*http.Request, error) {
	target := c.base.JoinPath(what.path)
	target.RawQuery = what.query.Encode()
	var body io.Reader = http.NoBody
	if what.body != nil {
		body = bytes.NewReader(what.body)
	}
	request, err := http.NewRequestWithContext(ctx, what.method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	signature, err := jwtauth.Sign(c.secret, jwtauth.IssuerKas, jwtauth.AudienceGitlab, c.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	request.Header.Set(gitlabapi.RequestHeader, signature)
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "kas/"+version.Version)
	if what.token != "" {
		request.Header.Set("Authorization", "Bearer "+what.token)
	}
	if what.jobToken != "" {
		request.Header.Set(gitlabapi.JobTokenHeader, what.jobToken)
	}
	if what.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// withoutURL takes the URL off an error of net/http: newError names the endpoint, and
// the query is the agent's own text.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// messageOf is what RoR says in words, cut to maxMessage.
func messageOf(response *http.Response, body []byte) string {
	if location := response.Header.Get("Location"); location != "" && response.StatusCode/100 == 3 {
		return fmt.Sprintf("it redirects to %s, which is never followed: put the final address into gitlab.address",
			cut(location))
	}
	var answer gitlabapi.Message
	if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
		return ""
	}
	return cut(answer.Message)
}

func cut(s string) string {
	if len(s) > maxMessage {
		s = s[:maxMessage] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
