package kasapi

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/grpctool"
)

// Error is a call to kas that came to nothing.
type Error struct {
	// Code is kas's; Unavailable, too, where kas itself could not be reached.
	Code codes.Code
	// Message is for people.
	Message string
	err     error
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what gRPC said.
func (e *Error) Unwrap() error { return e.err }

// HTTPStatus is what kas's codes (api/railsrpc) are in HTTP.
func (e *Error) HTTPStatus() int {
	switch e.Code {
	case codes.InvalidArgument, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.PermissionDenied:
		return http.StatusForbidden
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

// toError words what a command came to. What kas says of the agent is passed on as it
// is; who is nil where kas was not reached at all.
func toError(err error, who *peer.Peer, timeout time.Duration) error {
	if err == nil {
		return nil
	}
	e := &Error{Code: status.Code(err), Message: grpctool.Words(err), err: err}
	switch e.Code {
	case codes.Unavailable:
		if who.Addr == nil {
			e.Message = Explain(err)
		}
	case codes.DeadlineExceeded:
		e.Message = fmt.Sprintf("no answer within %s: the status will show whether it was done", timeout)
	case codes.Unauthenticated, codes.PermissionDenied: // of this server, not of whoever asks it
		e.Code, e.Message = codes.Unauthenticated, Explain(err)
	case codes.Unimplemented, codes.Unknown, codes.Internal:
		e.Message = Explain(err)
	}
	return e
}

// Explain words the trouble with kas for people who cannot mend it.
func Explain(err error) string {
	var said *Error
	if errors.As(err, &said) {
		return said.Message
	}
	switch status.Code(err) {
	case codes.Unavailable:
		return "kas cannot be reached"
	case codes.DeadlineExceeded:
		return "kas does not answer in time"
	case codes.Unauthenticated, codes.PermissionDenied:
		return "kas does not accept the secret that it should share with this server"
	case codes.Unimplemented:
		return "kas does not know this call: is the address that of its API for RoR, and kas as new as this server?"
	}
	return "kas answers with an error: " + grpctool.Words(err)
}
