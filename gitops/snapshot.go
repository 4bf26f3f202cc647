package gitops

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// Snapshot is a live object as it was seen once. It never changes and may be used by
// any goroutine. It takes little memory, for there may be many: what is asked for
// again and again is at hand, and the whole is decoded when somebody asks for it. A
// nil Snapshot is one of nothing.
type Snapshot struct {
	// data is the object's JSON.
	data     []byte
	deleting bool
	// verdict of kstatus, once it is known.
	verdict atomic.Pointer[verdictOfKstatus]
}

type verdictOfKstatus struct {
	health  Health
	message string
}

// isCurrent is shared by the many.
var isCurrent = &verdictOfKstatus{health: HealthCurrent}

// NewSnapshot takes what it needs of u, which may change afterwards.
func NewSnapshot(u *unstructured.Unstructured) (*Snapshot, error) {
	data, err := json.Marshal(u.Object)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	s := &Snapshot{data: data, deleting: u.GetDeletionTimestamp() != nil}
	if annotation(u, OwnerAnnotation) != "" {
		// It will be asked for, and costs less while the object is decoded.
		s.verdict.Store(compute(u))
	}
	return s, nil
}

// SnapshotOfMetadata is one of an object of which nothing else is known. kind is the
// object's own.
func SnapshotOfMetadata(o *metav1.ObjectMeta, kind schema.GroupVersionKind) (*Snapshot, error) {
	whole := metav1.PartialObjectMetadata{ObjectMeta: *o}
	whole.SetGroupVersionKind(kind)
	data, err := json.Marshal(&whole)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", kind.Kind, o.Name, err)
	}
	return &Snapshot{data: data, deleting: o.DeletionTimestamp != nil}, nil
}

// Unstructured decodes the object into a value of the caller's own; nil for a nil
// Snapshot.
func (s *Snapshot) Unstructured() *unstructured.Unstructured {
	if s == nil {
		return nil
	}
	u := &unstructured.Unstructured{}
	if u.UnmarshalJSON(s.data) != nil {
		return nil // what was never an object
	}
	return u
}

// JSON is the object's, as it is kept: nobody may change it. nil for a nil Snapshot.
func (s *Snapshot) JSON() []byte {
	if s == nil {
		return nil
	}
	return s.data
}

// Deleting says that the object is being deleted.
func (s *Snapshot) Deleting() bool { return s != nil && s.deleting }

// annotation of the object; empty: it has none of that key.
func (s *Snapshot) annotation(key string) string {
	if !s.mentions(key) {
		return ""
	}
	if u := s.Unstructured(); u != nil {
		return annotation(u, key)
	}
	return ""
}

// annotation reads one without copying all.
func annotation(u *unstructured.Unstructured, key string) string {
	value, _, err := unstructured.NestedString(u.Object, "metadata", "annotations", key)
	if err != nil {
		return ""
	}
	return value
}

// mentions spares decoding the many objects that do not have a key anywhere. The key
// must be one that JSON leaves as it is.
func (s *Snapshot) mentions(key string) bool { return s != nil && bytes.Contains(s.data, []byte(key)) }

// health by the rules of kstatus.
func (s *Snapshot) health() (Health, string) {
	v := s.verdict.Load()
	if v == nil {
		u := s.Unstructured()
		if u == nil {
			return HealthUnknown, "its health cannot be computed: it is no object"
		}
		v = compute(u)
		s.verdict.Store(v)
	}
	return v.health, v.message
}

func compute(u *unstructured.Unstructured) *verdictOfKstatus {
	if plainlyCurrent(u) {
		return isCurrent
	}
	res, err := status.Compute(u)
	if err != nil {
		return &verdictOfKstatus{HealthUnknown, "its health cannot be computed: " + err.Error()}
	}
	switch res.Status {
	case status.CurrentStatus:
		return isCurrent
	case status.InProgressStatus:
		return &verdictOfKstatus{HealthInProgress, res.Message}
	case status.FailedStatus:
		return &verdictOfKstatus{HealthFailed, res.Message}
	case status.TerminatingStatus:
		return &verdictOfKstatus{HealthTerminating, terminating(u)}
	default:
		return &verdictOfKstatus{HealthUnknown, res.Message}
	}
}
