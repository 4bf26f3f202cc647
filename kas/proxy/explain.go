package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/grpctool"
)

// whyEnded is why an answer broke off: the client has left, or kas had a reason.
func whyEnded(client, ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case err == nil:
		return nil
	case client.Err() != nil:
		return errGone
	case cause != nil:
		return cause //nolint:wrapcheck // it is ours
	default:
		return err
	}
}

// explain says what an error means to who asked. begun: an agent had taken the request.
func explain(ctx context.Context, err error, begun bool) error {
	var why *refusal
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &why), errors.As(err, &why):
		return why
	case errors.Is(err, errDraining), errors.Is(cause, errDraining):
		return refuseFor(time.Second, http.StatusServiceUnavailable, "%v: try again", errDraining)
	case errors.Is(cause, errNoAgent):
		return refuse(http.StatusServiceUnavailable, "%v: is the agent connected?", errNoAgent)
	case cause != nil:
		return errGone
	case errors.Is(err, errResponse), errors.Is(err, io.EOF):
		return refuse(http.StatusBadGateway, "the agent answered nothing of use: %v", err)
	}
	words := grpctool.Words(err)
	switch status.Code(err) {
	case codes.Unavailable:
		if !begun {
			return refuse(http.StatusServiceUnavailable, "%s", words)
		}
		return refuse(http.StatusBadGateway, "%s", words)
	case codes.PermissionDenied:
		return refuse(http.StatusForbidden, "%s", words)
	case codes.InvalidArgument:
		return refuse(http.StatusBadRequest, "%s", words)
	case codes.Unimplemented:
		return refuse(http.StatusNotImplemented, "%s", words)
	case codes.ResourceExhausted:
		return refuseFor(time.Second, http.StatusServiceUnavailable, "%s", words)
	case codes.DeadlineExceeded:
		return refuse(http.StatusGatewayTimeout, "%s", words)
	default:
		return refuse(http.StatusBadGateway, "%s", words)
	}
}
