package gitops

import (
	"errors"
	"strings"
	"time"
)

// What a Cluster's errors wrap where the engine decides on them. All other errors
// are about one object, and worth another try later at the earliest.
var (
	// ErrUnavailable: the API server cannot be reached at all, or does not answer.
	ErrUnavailable = errors.New("the API server cannot be reached")
	// ErrNotServed is wrapped by Kind.Err when the API server does not know the kind.
	ErrNotServed = errors.New("kind is not served")
	// ErrThrottled: the API server asks for fewer requests, or took too long for this
	// one. The error is a *ThrottledError.
	ErrThrottled = errors.New("the API server is busy")
	// ErrTransient: the same request may well succeed in a moment, as after a
	// conflict, or where a webhook did not answer.
	ErrTransient = errors.New("the API server could not do it just now")
	// ErrImmutable: a field that is to be changed cannot be. The error is an
	// *ImmutableError.
	ErrImmutable = errors.New("a field cannot be changed")
	// ErrNotFound: the API server says that there is no such object.
	ErrNotFound = errors.New("the object does not exist")
	// ErrNoNamespace: the object's namespace does not exist.
	ErrNoNamespace = errors.New("the namespace does not exist")
	// ErrNamespaceEnds: the object's namespace is being deleted.
	ErrNamespaceEnds = errors.New("the namespace is being deleted")
)

// KindError marks an error with what kind of error it is, and leaves its text alone.
type KindError struct {
	// Kind is ErrTransient, ErrNotFound, ErrNoNamespace or ErrNamespaceEnds.
	Kind error
	Err  error
}

// Error implements error.
func (e *KindError) Error() string { return e.Err.Error() }

// Unwrap has errors.Is and errors.As see both.
func (e *KindError) Unwrap() []error { return []error{e.Kind, e.Err} }

// ThrottledError wraps ErrThrottled.
type ThrottledError struct {
	// RetryAfter is how long the API server asks to wait; zero: it does not say.
	RetryAfter time.Duration
	Err        error
}

// Error implements error.
func (e *ThrottledError) Error() string { return e.Err.Error() }

// Unwrap has errors.Is and errors.As see both.
func (e *ThrottledError) Unwrap() []error { return []error{ErrThrottled, e.Err} }

// ImmutableError wraps ErrImmutable.
type ImmutableError struct {
	// Fields that cannot be changed, such as "spec.selector".
	Fields []string
	Err    error
}

// Error implements error.
func (e *ImmutableError) Error() string { return e.Err.Error() }

// Unwrap has errors.Is and errors.As see both.
func (e *ImmutableError) Unwrap() []error { return []error{ErrImmutable, e.Err} }

// because says which fields it is about.
func (e *ImmutableError) because() string {
	if len(e.Fields) == 0 {
		return "a field cannot be changed"
	}
	return strings.Join(e.Fields, ", ") + " cannot be changed"
}
