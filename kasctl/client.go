package kasctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/version"
)

const (
	// requestTimeout of one request to RoR.
	requestTimeout = 30 * time.Second
	// commandTimeout of one that RoR passes on to an agent: a comparison takes long.
	commandTimeout = 70 * time.Second
	// maxResponse is the largest answer, in bytes, that is read.
	maxResponse = 256 << 20
	// tokenHeader carries the personal access token.
	tokenHeader = "PRIVATE-TOKEN"
)

var (
	errNoURL   = errors.New("no address of RoR: set --url or ROR_URL, for example https://gitlab.example.com")
	errNoToken = errors.New("no token: set --token-file, --token or ROR_TOKEN to a personal access token")
)

// passingError is trouble that may pass: it is worth asking again.
type passingError struct{ error }

func (e passingError) Unwrap() error { return e.error }

// refusedError is a command or question that came to nothing; RoR or the agent says why.
type refusedError struct {
	said string
	code int
}

// Error implements error.
func (e *refusedError) Error() string { return e.said }

// answeredError is an answer of RoR that is not what was asked for.
type answeredError struct {
	error
	code int
	// said is its message.
	said string
}

func (e *answeredError) Unwrap() error { return e.error }

// client asks RoR.
type client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// newClient returns a client of the RoR at base.
func newClient(base, token string) (*client, error) {
	if base == "" {
		return nil, errNoURL
	}
	if token == "" {
		return nil, errNoToken
	}
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("address of RoR %q: want http://HOST or https://HOST", base)
	}
	return &client{base: u, token: token, http: &http.Client{
		// The token must not follow a redirect to who knows where.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// get asks for /api/v4/<path...> and returns the JSON that comes back. The elements
// of path are escaped.
func (c *client) get(ctx context.Context, query url.Values, path ...string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.do(ctx, http.MethodGet, query, nil, path)
}

// post sends v as JSON to /api/v4/<path...> and returns the JSON that comes back, if
// any does.
func (c *client) post(ctx context.Context, v any, path ...string) (json.RawMessage, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("ask RoR: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return c.do(ctx, http.MethodPost, nil, body, path)
}

func (c *client) do(ctx context.Context, method string, query url.Values, send []byte, path []string) (json.RawMessage, error) {
	resp, err := c.send(ctx, method, query, send, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	body, err := c.readAll(resp)
	if err != nil {
		return nil, err
	}
	if err := c.check(resp, body); err != nil {
		return nil, err
	}
	return body, nil
}

func (c *client) readAll(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return nil, passingError{fmt.Errorf("read the answer of RoR at %s: %w", c.base, err)}
	}
	return body, nil
}

// send sends a request. The caller closes the answer's body.
func (c *client) send(ctx context.Context, method string, query url.Values, send []byte, path []string) (*http.Response, error) {
	escaped := make([]string, 0, len(path))
	for _, p := range path {
		escaped = append(escaped, url.PathEscape(p))
	}
	u := strings.TrimSuffix(c.base.String(), "/") + "/api/v4/" + strings.Join(escaped, "/")
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(send))
	if err != nil {
		return nil, fmt.Errorf("ask RoR: %w", err)
	}
	req.Header.Set(tokenHeader, c.token)
	req.Header.Set("Accept", "application/json")
	if send != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "kasctl/"+version.Version)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, passingError{fmt.Errorf("cannot reach RoR at %s (check --url): %w", c.base, err)}
	}
	return resp, nil
}

// check turns an answer that is not what was asked for into an error that says what
// to do.
func (c *client) check(resp *http.Response, body []byte) error {
	said, code := messageOf(body), resp.StatusCode
	switch {
	case code == http.StatusNoContent, code == http.StatusAccepted:
		return nil
	case code != http.StatusOK && code != http.StatusCreated:
		return c.explain(resp, said)
	case len(body) > maxResponse:
		return fmt.Errorf("RoR at %s answers with more than %d MiB", c.base, maxResponse>>20)
	case !json.Valid(body):
		return fmt.Errorf("%s does not answer in JSON: is it the address of RoR?", c.base)
	}
	return nil
}

// explain words an answer that says no.
func (c *client) explain(resp *http.Response, said string) error {
	code := resp.StatusCode
	answered := func(format string, args ...any) error {
		return &answeredError{fmt.Errorf(format, args...), code, said}
	}
	switch {
	case code == http.StatusUnauthorized:
		return answered("RoR at %s does not know the token (401): create a personal access token there and put it into ROR_TOKEN", c.base)
	case code == http.StatusForbidden && resp.Request.Method == http.MethodPost:
		return answered("RoR at %s: your user may not do this (403): it takes a maintainer of the agent's configuration project: %s", c.base, said)
	case code == http.StatusForbidden:
		return answered("RoR at %s: your user may not see this (403): %s", c.base, said)
	case code >= 300 && code < 400:
		return answered("RoR at %s redirects to %s: use that as --url", c.base, resp.Header.Get("Location"))
	case resp.Request.Method == http.MethodPost:
		return &refusedError{said, code} // by the agent, most likely, and RoR says all of it
	case code == http.StatusTooManyRequests, code >= http.StatusInternalServerError:
		return passingError{answered("RoR at %s is in trouble (%s), try again: %s", c.base, resp.Status, said)}
	}
	return answered("RoR at %s answers %s: %s", c.base, resp.Status, said)
}

// messageOf is what an error's body says, in one line.
func messageOf(body []byte) string {
	var m struct {
		Message json.RawMessage `json:"message"`
		Error   string          `json:"error"`
	}
	var text string
	if json.Unmarshal(body, &m) == nil && (len(m.Message) > 0 || m.Error != "") {
		var parsed gitlabapi.Message
		if json.Unmarshal(body, &parsed) == nil && parsed.Message != "" {
			text = parsed.Message
		} else {
			text = strings.TrimSpace(string(m.Message) + " " + m.Error)
		}
	} else {
		text = string(bytes.TrimSpace(body))
	}
	return clip(oneLine(text), 300)
}
