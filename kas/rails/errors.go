package rails

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// Error is a request to RoR that failed. It unwraps to one of gitlabapi's sentinels and,
// where there is one, to the cause.
type Error struct {
	// Endpoint is the method and path that were asked.
	Endpoint string
	// Status is the HTTP status; zero where no answer came.
	Status int
	// Message is what RoR said, or what is wrong with its answer; or empty.
	Message string

	kind  error
	cause error
}

func newError(what call, code int, message string, cause error) *Error {
	return &Error{
		Endpoint: what.method + " " + what.path,
		Status:   code,
		Message:  message,
		kind:     kindOf(code),
		cause:    cause,
	}
}

func kindOf(code int) error {
	switch {
	case code == http.StatusUnauthorized:
		return gitlabapi.ErrUnauthorized
	case code == http.StatusForbidden:
		return gitlabapi.ErrForbidden
	case code == http.StatusNotFound:
		return gitlabapi.ErrNotFound
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests:
		return gitlabapi.ErrUnavailable
	case code/100 == 4:
		return gitlabapi.ErrRejected
	default:
		return gitlabapi.ErrUnavailable
	}
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "RoR: %s: %v", e.Endpoint, e.kind)
	if e.Status != 0 {
		fmt.Fprintf(&b, " (%d %s)", e.Status, http.StatusText(e.Status))
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.cause != nil {
		fmt.Fprintf(&b, ": %v", e.cause)
	}
	return b.String()
}

// Unwrap returns the sentinel and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}
