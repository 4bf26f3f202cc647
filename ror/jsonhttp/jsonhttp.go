// Package jsonhttp reads and writes the JSON bodies of GitLab's APIs, which both
// the public and the internal API of RoR speak: requests of bounded size, errors of
// the form {"message": …}.
package jsonhttp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/ror/registry"
)

// Error is an answer that tells a client why it does not get what it asked for.
type Error struct {
	Status  int
	Message string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Message) }

// The errors that GitLab words alike everywhere.
var (
	ErrUnauthorized = &Error{http.StatusUnauthorized, "401 Unauthorized"}
	ErrForbidden    = &Error{http.StatusForbidden, "403 Forbidden"}
	ErrNotFound     = &Error{http.StatusNotFound, "404 Not found"}
)

// NotFound says what was not found, for example "Project".
func NotFound(what string) *Error {
	return &Error{http.StatusNotFound, fmt.Sprintf("404 %s Not Found", what)}
}

// BadRequest says what is wrong with the request.
func BadRequest(format string, args ...any) *Error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// ToAnswer is what a client is told of an error: one of this package, one of the
// registry, or that something went wrong.
func ToAnswer(err error) *Error {
	var answer *Error
	var invalid *registry.InvalidError
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &invalid):
		return BadRequest("%s", invalid.Error())
	case errors.Is(err, registry.ErrUnauthorized):
		return ErrUnauthorized
	case errors.Is(err, registry.ErrNotFound):
		return ErrNotFound
	}
	return &Error{http.StatusInternalServerError, "500 Internal Server Error"}
}

// Write answers with a value as JSON.
func Write(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"message":"500 Internal Server Error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that hung up needs no answer
}

// WriteError answers with an error.
func WriteError(w http.ResponseWriter, e *Error) {
	Write(w, e.Status, gitlabapi.Message{Message: e.Message})
}

// ReadAll returns the body, of at most limit bytes. What it returns is an *Error.
func ReadAll(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &Error{http.StatusRequestEntityTooLarge, fmt.Sprintf("413 Request Entity Too Large: more than %d bytes", limit)}
	case err != nil:
		return nil, BadRequest("400 Bad request - the body could not be read")
	}
	return body, nil
}

// Read decodes a JSON body of at most limit bytes. What it returns is an *Error.
func Read(w http.ResponseWriter, r *http.Request, limit int64, into any) error {
	body, err := ReadAll(w, r, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) && wrongType.Field != "" {
			return BadRequest("%s is invalid: want %s, not %s", wrongType.Field, wrongType.Type, wrongType.Value)
		}
		return BadRequest("400 Bad request - the body must be JSON: %v", err)
	}
	return nil
}
