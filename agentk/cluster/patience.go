package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxMessage is how much of an answer in plain text is passed on.
const maxMessage = 2048

// impatient keeps client-go from waiting and sending a request again by itself
// wherever the API server asks for that: the engine is to know of it, to send less,
// and to send something else meanwhile.
type impatient struct {
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t impatient) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err //nolint:wrapcheck // a transport passes errors on
	}
	after := resp.Header.Get("Retry-After")
	if after == "" || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError {
		return resp, nil
	}
	// It is this header that client-go goes by.
	resp.Header.Del("Retry-After")
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && !strings.HasPrefix(media, "text/") {
		return resp, nil // a Status, which says it as well
	}
	if err := reword(resp, after); err != nil {
		return nil, err
	}
	return resp, nil
}

// reword makes a Status of an answer in plain text.
func reword(resp *http.Response, after string) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	seconds, err := strconv.Atoi(after)
	if err != nil {
		seconds = 1 // a date
	}
	reason := metav1.StatusReasonTooManyRequests
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
	case http.StatusGatewayTimeout:
		reason = metav1.StatusReasonTimeout
	case http.StatusServiceUnavailable:
		reason = metav1.StatusReasonServiceUnavailable
	default:
		reason = metav1.StatusReasonInternalError
	}
	data, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(resp.StatusCode), Reason: reason,
		Message: strings.TrimSpace(string(text)),
		Details: &metav1.StatusDetails{RetryAfterSeconds: int32(min(seconds, 1<<16))},
	})
	if err != nil {
		return fmt.Errorf("reword the answer: %w", err)
	}
	resp.Header.Set("Content-Type", "application/json")
	resp.Header.Del("Content-Length")
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	return nil
}
