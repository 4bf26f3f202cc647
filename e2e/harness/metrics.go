package harness

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Metrics is what a Prometheus endpoint answered: a value by series, written
// as in the answer, such as `kas_gitaly_polls_total{result="moved"}`.
type Metrics map[string]float64

// Scrape asks a Prometheus endpoint.
func Scrape(ctx context.Context, url string) (Metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask for metrics: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask for metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask for metrics: %s answers %s", url, resp.Status)
	}
	m := Metrics{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if line == "" || line[0] == '#' || at < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics of %s: %q: %w", url, line, err)
		}
		m[line[:at]] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	return m, nil
}

// Metrics scrapes and fails the test if that fails.
func (f *Fixture) Metrics(url string) Metrics {
	f.T.Helper()
	m, err := Scrape(f.T.Context(), url)
	if err != nil {
		f.T.Fatal(err)
	}
	return m
}

// Sum adds up the series of a metric that have all the labels, each written as
// `name="value"`.
func (m Metrics) Sum(name string, labels ...string) float64 {
	sum := 0.0
series:
	for series, value := range m {
		family, rest, _ := strings.Cut(series, "{")
		if family != name {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(","+strings.TrimSuffix(rest, "}")+",", ","+label+",") {
				continue series
			}
		}
		sum += value
	}
	return sum
}
