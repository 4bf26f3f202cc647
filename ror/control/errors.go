package control

import (
	"errors"

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
	return &Error{said.HTTPStatus(), said.Message}
}
