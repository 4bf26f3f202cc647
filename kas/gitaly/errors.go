package gitaly

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/gitrepo"
)

// problem turns what a call of Gitaly returned into one of gitrepo's errors. doing
// says what was being done.
func problem(doing string, err error) error {
	var unavailable *gitrepo.UnavailableError
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.NotFound:
		return gitrepo.ErrRepositoryNotFound
	case errors.As(err, &unavailable):
		return err
	default:
		return &gitrepo.UnavailableError{Doing: doing, Err: err}
	}
}

// sameProblem tells whether two problems are the same to a person.
func sameProblem(a, b error) bool {
	var refA, refB *gitrepo.RefNotFoundError
	switch {
	case a == nil || b == nil:
		return a == nil && b == nil
	case errors.As(a, &refA) && errors.As(b, &refB):
		return refA.Ref == refB.Ref
	case gitrepo.IsPassing(a) && gitrepo.IsPassing(b):
		return status.Code(errors.Unwrap(a)) == status.Code(errors.Unwrap(b))
	default:
		return errors.Is(a, b)
	}
}
