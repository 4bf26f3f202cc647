package control

import (
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/kas-agentk/kas/ror/kasapi"
)

// Error is a command that came to nothing.
type Error struct {
	// Status of HTTP.
	Status int
	// Message for people: why, and what to do where that is known.
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// toError gives kas's errors their HTTP status.
func toError(err error) error {
	var said *kasapi.Error
	if !errors.As(err, &said) {
		return err
	}
	return &Error{httpStatus(said.Code), said.Message}
}

// httpStatus is what kas's codes (api/railsrpc) are in HTTP.
func httpStatus(code codes.Code) int {
	switch code {
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unavailable, codes.Canceled:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}
