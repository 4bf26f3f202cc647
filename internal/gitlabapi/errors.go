package gitlabapi

import (
	"errors"
	"fmt"
)

// What RoR answered, in the words that a caller in kas decides on. kas/rails wraps
// one of them in every error that it returns.
var (
	// ErrUnauthorized is 401: the agent token is unknown or revoked.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrForbidden is 403: known, but not allowed.
	ErrForbidden = errors.New("forbidden")
	// ErrNotFound is 404: no such thing, or none that the agent may see.
	ErrNotFound = errors.New("not found")
	// ErrNoEndpoint is an ErrNotFound about the endpoint itself: RoR does not serve it.
	ErrNoEndpoint = fmt.Errorf("no such endpoint: %w", ErrNotFound)
	// ErrRejected is any other 4xx: the same request will never succeed.
	ErrRejected = errors.New("rejected")
	// ErrUnavailable is everything that may pass: RoR cannot be reached, does not
	// answer in time, or answers 429, 5xx or something that is not its API.
	ErrUnavailable = errors.New("unavailable")
)

// IsRefusal tells whether RoR decided, rather than failed.
func IsRefusal(err error) bool {
	return errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrForbidden) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrRejected)
}
