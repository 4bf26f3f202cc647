package push

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/manifests"
)

const (
	// DefaultNamespace of a project that names none.
	DefaultNamespace = "default"

	maxGlobs           = 1000
	maxProjectIDLength = 1024
	maxRefLength       = 1024
)

// wish is what a Hello asks for and what its agent holds.
type wish struct {
	// projectID is the project as the agent names it.
	projectID string
	ref       gitrepo.Ref
	selector  *sources
	namespace string
	// commitID of the set that the agent holds, and its digests. Empty: none.
	commitID string
	held     map[manifests.Digest]struct{}
	// capabilities of the agent, and its version.
	capabilities []agentrpc.Capability
	version      string
}

// maxVersion is the longest version of an agent that is shown, in bytes.
const maxVersion = 64

// capable returns an error, with a gRPC status, unless the agent is capable of what.
func (w *wish) capable(of agentrpc.Capability, what string) error {
	if slices.Contains(w.capabilities, of) {
		return nil
	}
	return status.Errorf(codes.FailedPrecondition, "agentk %.*s is too old to %s: update it", maxVersion, cmp.Or(w.version, "(of an unknown version)"), what)
}

// readHello checks the first message of a stream.
func readHello(request *agentrpc.ConnectRequest, limits manifests.Limits) (*wish, error) {
	hello := request.GetHello()
	if hello == nil {
		return nil, status.Error(codes.InvalidArgument, "the first message of a stream must be Hello")
	}
	w, err := newWish(hello.GetProject())
	if err == nil {
		err = w.holds(hello, limits.MaxObjects)
	}
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "Hello: %v", err)
	}
	w.capabilities, w.version = hello.GetCapabilities(), hello.GetVersion()
	return w, nil
}

func newWish(project *agentcfg.ManifestProject) (*wish, error) {
	w := &wish{projectID: project.GetId(), namespace: project.GetDefaultNamespace()}
	if w.projectID == "" || len(w.projectID) > maxProjectIDLength {
		return nil, fmt.Errorf("project.id must have 1 to %d characters", maxProjectIDLength)
	}
	if w.namespace == "" {
		w.namespace = DefaultNamespace
	}
	if problems := validation.IsDNS1123Label(w.namespace); len(problems) > 0 {
		return nil, fmt.Errorf("project.default_namespace %.80q: %s", w.namespace, problems[0])
	}
	if n := len(project.GetPaths()); n > maxGlobs {
		return nil, fmt.Errorf("project.paths has %d globs, more than the limit of %d", n, maxGlobs)
	}
	var err error
	if w.selector, err = newSources(project.GetPaths(), w.namespace); err != nil {
		return nil, fmt.Errorf("project.paths: %w", err)
	}
	if w.ref, err = refOf(project.GetRef()); err != nil {
		return nil, fmt.Errorf("project.ref: %w", err)
	}
	return w, nil
}

func refOf(ref *agentcfg.GitRef) (gitrepo.Ref, error) {
	var name string
	var r gitrepo.Ref
	switch kind := ref.GetRef().(type) {
	case nil:
		if ref != nil {
			return r, errors.New("names neither branch, tag nor commit")
		}
		return r, nil // the default branch
	case *agentcfg.GitRef_Branch:
		name, r.Branch = kind.Branch, kind.Branch
	case *agentcfg.GitRef_Tag:
		name, r.Tag = kind.Tag, kind.Tag
	case *agentcfg.GitRef_Commit:
		name, r.Commit = kind.Commit, kind.Commit
		if !isCommitID(name) {
			return r, fmt.Errorf("commit %.80q is not a full commit ID of 40 hexadecimal digits", name)
		}
	default:
		return r, errors.New("is of an unknown kind: update kas")
	}
	if name == "" || len(name) > maxRefLength {
		return r, fmt.Errorf("must have 1 to %d characters", maxRefLength)
	}
	return r, nil
}

// holds reads what the agent holds.
func (w *wish) holds(hello *agentrpc.Hello, maxObjects int) error {
	digests := hello.GetDigests()
	w.commitID = hello.GetCommitId()
	switch {
	case w.commitID != "" && !isCommitID(w.commitID):
		return fmt.Errorf("commit_id %.80q is not a commit ID", w.commitID)
	case w.commitID == "" && len(digests) > 0:
		return errors.New("digests without the commit_id of the set that they are of")
	case len(digests) > maxObjects:
		return fmt.Errorf("%d digests, more than the limit of %d objects", len(digests), maxObjects)
	}
	w.held = make(map[manifests.Digest]struct{}, len(digests))
	for i, d := range digests {
		if len(d) != manifests.DigestSize {
			return fmt.Errorf("digest %d has %d bytes, not %d", i, len(d), manifests.DigestSize)
		}
		w.held[manifests.Digest(d)] = struct{}{}
	}
	return nil
}

// isCommitID tells whether s is a full commit ID, of SHA-1 or SHA-256.
func isCommitID(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}
