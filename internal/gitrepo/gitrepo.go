// Package gitrepo holds the words in which kas's rooms speak of Git repositories:
// kas/gitaly reads repositories, and those who follow them (agent configuration,
// object sets) say what they want and learn what was found in these types.
package gitrepo

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// Repository is a repository and the Gitaly server that keeps it, as RoR names them.
type Repository struct {
	Server     gitlabapi.GitalyInfo
	Repository gitlabapi.GitalyRepository
}

// Ref names a commit to follow. At most one field is set; the zero value is the
// repository's default branch. It is comparable.
type Ref struct {
	Branch string
	Tag    string
	// Commit is a full commit ID.
	Commit string
}

// String returns "branch main", "tag v1", "commit <id>" or "the default branch".
func (r Ref) String() string {
	switch {
	case r.Branch != "":
		return "branch " + strings.ToValidUTF8(r.Branch, "\uFFFD")
	case r.Tag != "":
		return "tag " + strings.ToValidUTF8(r.Tag, "\uFFFD")
	case r.Commit != "":
		return "commit " + r.Commit
	default:
		return "the default branch"
	}
}

// Revision is what a ref names, as last seen: a commit, or the reason why there is
// none.
type Revision struct {
	// Ref that was followed; for the default branch, the branch it is. It may be
	// the zero value where Problem is set.
	Ref Ref
	// CommitID is empty where Problem is set.
	CommitID string
	// DetectedAt is when the ref was first seen at this commit.
	DetectedAt time.Time
	// Problem is one of this package's errors: see IsPassing for those that need
	// no person. Nil: all is well.
	Problem error
	// Traceparent is the W3C trace context of what found it. Empty: it is not traced, or
	// has been known for longer.
	Traceparent string
}

// File is a regular file of a commit.
type File struct {
	// Path from the repository's root, without a leading slash.
	Path string
	// OID is the ID of the Git blob that holds the content: equal OIDs of one
	// repository are equal contents.
	OID string
}

// Problems that only a person can mend. Their texts are meant for the status page.
var (
	// ErrEmpty says that the repository has no commit.
	ErrEmpty = errors.New("the repository is empty: push a commit to it")
	// ErrRepositoryNotFound says that Gitaly does not have the repository.
	ErrRepositoryNotFound = errors.New("no such repository in Gitaly: was the project deleted or moved?")
	// ErrTooManyFiles says that a commit has more files than kas reads the names of.
	ErrTooManyFiles = errors.New("the commit has too many files: keep manifests in a repository of their own")
	// ErrFileNotFound says that the commit has no such file.
	ErrFileNotFound = errors.New("no such file in the commit")
)

// RefNotFoundError says that the repository has no such ref.
type RefNotFoundError struct {
	Ref Ref
}

// Error implements error.
func (e *RefNotFoundError) Error() string {
	if e.Ref == (Ref{}) {
		return "the repository has no default branch: push a commit to it, or name a ref in the agent's configuration"
	}
	return fmt.Sprintf("the repository has no %s: create it, or correct ref in the agent's configuration", e.Ref)
}

// TooLargeError says that a file is larger than what was asked for.
type TooLargeError struct {
	Path string
	// Size and Limit in bytes.
	Size, Limit int64
}

// Error implements error.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s has %d bytes, more than the limit of %d", e.Path, e.Size, e.Limit)
}

// UnavailableError is trouble that may pass by itself: Gitaly cannot be reached, is
// overloaded, or failed.
type UnavailableError struct {
	// Doing says what was being done.
	Doing string
	Err   error
}

// Error implements error.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("Gitaly: %s: %s (trying again)", e.Doing, grpctool.Words(e.Err))
}

// Unwrap returns what Gitaly or the connection said.
func (e *UnavailableError) Unwrap() error { return e.Err }

// IsPassing tells whether err is trouble that may pass by itself.
func IsPassing(err error) bool {
	var u *UnavailableError
	return errors.As(err, &u)
}
