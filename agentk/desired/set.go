package desired

import (
	"slices"
	"time"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/manifests"
)

// Set is a whole object set and where it comes from. It is shared between
// goroutines and must not be changed.
type Set struct {
	gitops.Desired
	// Ref that was followed: "branch main", "tag v1" or "commit <id>".
	Ref string
	// ProjectID is the manifest project's number in RoR.
	ProjectID int64
	// ProjectPath is its full path.
	ProjectPath string
	// DetectedAt is when kas saw the ref at this commit; zero where kas did not say.
	DetectedAt time.Time
	// ComparisonID, unless empty, says that the set is only to be compared with the
	// cluster, and what to call the answer. It is not held.
	ComparisonID string
	// Restored: the set comes from the Store, and kas has not said that it is still
	// the newest. It is good for healing; nothing may be deleted for it.
	Restored bool
	// Traceparent is the W3C trace context of the change that led to the set; empty: it is
	// not traced.
	Traceparent string
	// Began and Received are when the first and the last message of it came: the Receiver's
	// caller knows. Zero: it comes from the Store.
	Began, Received time.Time
}

// Same tells whether applying other in place of s would be for nothing: the same
// commit of the same project with the same content, both from kas.
func (s *Set) Same(other *Set) bool {
	return s.Commit == other.Commit && s.Restored == other.Restored &&
		s.ProjectID == other.ProjectID &&
		s.Set.Complete == other.Set.Complete &&
		slices.Equal(s.Set.Errors, other.Set.Errors) &&
		slices.EqualFunc(s.Set.Objects, other.Set.Objects, func(a, b manifests.Object) bool {
			return a.Digest == b.Digest && a.Position == b.Position
		})
}
