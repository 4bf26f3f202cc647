package stream_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/ror/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is what Serve returned.
type result struct {
	begun bool
	err   error
}

// served serves streams that produce makes, and tells how each ended.
func served(t *testing.T, cfg stream.Config, produce func(ctx context.Context, send func([]byte) error) error) (url string, ended <-chan result) {
	t.Helper()
	results := make(chan result, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun, err := stream.Serve(w, r, cfg, produce)
		if !begun {
			w.WriteHeader(http.StatusTeapot)
		}
		results <- result{begun, err}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, results
}

// answer is a response whose body is closed at the end of the test.
type answer struct {
	code   int
	header http.Header
	body   io.Reader
}

func get(t *testing.T, ctx context.Context, url string) answer { //nolint:revive // t first, as everywhere
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return answer{res.StatusCode, res.Header, res.Body}
}

func TestServe_SendsEachPieceAtOnceAndBeatsBetween(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Unix(0, 0))
	pieces := make(chan string)
	url, ended := served(t, stream.Config{ContentType: "text/x", Beat: []byte("beat\n"), Clock: clk}, func(_ context.Context, send func([]byte) error) error {
		for piece := range pieces {
			if err := send([]byte(piece)); err != nil {
				return err
			}
		}
		return nil
	})
	go func() { pieces <- "one\n" }()
	res := get(t, t.Context(), url)
	require.Equal(t, "text/x", res.header.Get("Content-Type"))
	lines := bufio.NewReader(res.body)
	line := func() string {
		s, err := lines.ReadString('\n')
		require.NoError(t, err)
		return s
	}
	require.Equal(t, "one\n", line(), "before there is a second one")
	testkit.Eventually(t, func() error {
		if !clk.HasWaiters() {
			return errors.New("nobody waits for a beat")
		}
		return nil
	})
	beaten := make(chan string)
	go func() { beaten <- line() }()
	for beat := ""; beat == ""; {
		clk.Step(20 * time.Second)
		select {
		case beat = <-beaten:
			require.Equal(t, "beat\n", beat)
		case <-time.After(time.Millisecond):
		}
	}
	pieces <- "two\n"
	for s := line(); s != "two\n"; s = line() {
		require.Equal(t, "beat\n", s)
	}
	close(pieces)
	_, err := io.ReadAll(lines)
	require.NoError(t, err)
	require.Equal(t, result{begun: true}, <-ended)
}

func TestServe_EndsWithWhoeverListens(t *testing.T) {
	url, ended := served(t, stream.Config{}, func(ctx context.Context, send func([]byte) error) error {
		if err := send([]byte("one")); err != nil {
			return err
		}
		<-ctx.Done()
		return errors.New("of no interest")
	})
	ctx, cancel := context.WithCancel(t.Context())
	get(t, ctx, url)
	cancel()
	require.Equal(t, result{begun: true}, <-ended)
}

func TestServe_EndsAfterAWhile(t *testing.T) {
	url, ended := served(t, stream.Config{Life: time.Millisecond}, func(ctx context.Context, send func([]byte) error) error {
		<-ctx.Done()
		return errors.Join(send([]byte("last")), ctx.Err())
	})
	body, err := io.ReadAll(get(t, t.Context(), url).body)
	require.NoError(t, err)
	require.Equal(t, "last", string(body))
	require.Equal(t, result{begun: true}, <-ended)
}

func TestServe_LeavesAnErrorBeforeTheFirstPieceToItsCaller(t *testing.T) {
	broken := errors.New("broken")
	url, ended := served(t, stream.Config{}, func(context.Context, func([]byte) error) error { return broken })
	require.Equal(t, http.StatusTeapot, get(t, t.Context(), url).code)
	require.Equal(t, result{false, broken}, <-ended)
}
