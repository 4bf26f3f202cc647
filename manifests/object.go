package manifests

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kas-agentk/kas/inventory"
)

// DigestSize is the length of a Digest in bytes.
const DigestSize = sha256.Size

// Digest is the SHA-256 of an object's canonical JSON: equal digests are equal
// objects.
type Digest [DigestSize]byte

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Position is where in the repository an object stands.
type Position struct {
	// Path from the repository's root, without a leading slash.
	Path string
	// Line of the object's first key, from 1.
	Line int
}

// String returns "path:line".
func (p Position) String() string { return fmt.Sprintf("%s:%d", p.Path, p.Line) }

// Object is one Kubernetes object of a repository. Objects are shared between
// goroutines and must not be changed.
type Object struct {
	ID     inventory.ID
	Digest Digest
	// JSON is canonical: keys sorted, no insignificant space.
	JSON     []byte
	Position Position
}

// Unstructured decodes the object into a value of the caller's own.
func (o *Object) Unstructured() (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(o.JSON); err != nil {
		return nil, fmt.Errorf("decode %s of %s: %w", o.ID, o.Position, err)
	}
	return u, nil
}

// FileError is a mistake in the repository.
type FileError struct {
	// Path is empty where the mistake is in no one file.
	Path string
	// Line from 1; zero where it is not known.
	Line int
	// Message says what is wrong and what to do about it.
	Message string
}

// Error implements error as "path:line: message".
func (e *FileError) Error() string {
	switch {
	case e.Path == "":
		return e.Message
	case e.Line == 0:
		return fmt.Sprintf("%s: %s", e.Path, e.Message)
	default:
		return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Message)
	}
}

// Set is the objects of one commit.
type Set struct {
	// Objects, ordered by path and then by line; those that were rendered together stand
	// where the file does that they were rendered from. No two have the same ID.
	Objects []Object
	// Errors of the files and documents that could not be read, ordered likewise.
	Errors []FileError
	// Complete says that Objects is everything the repository asks for. Otherwise
	// an object's absence means nothing, and nothing may be deleted for it.
	Complete bool
}
