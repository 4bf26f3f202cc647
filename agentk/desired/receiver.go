package desired

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

var (
	// ErrProtocol marks what a peer that keeps to the protocol never sends. The
	// receiver has forgotten what it held: open a new stream.
	ErrProtocol = errors.New("protocol error")
	// ErrTooLarge marks a set that exceeds the Limits. The receiver has forgotten
	// what it held.
	ErrTooLarge = errors.New("object set too large")
)

// Limits bound what a Receiver takes into memory for one set.
type Limits struct {
	// Objects in a set.
	Objects int
	// Bytes of JSON in a set.
	Bytes int
	// Errors in a set.
	Errors int
}

// DefaultLimits are far beyond what one repository should hold. The digests of
// 100,000 objects still fit one hello.
func DefaultLimits() Limits {
	return Limits{Objects: 100_000, Bytes: 256 << 20, Errors: 10_000}
}

// helloDigestSize is what one digest takes in an encoded hello: tag and length.
const helloDigestSize = manifests.DigestSize + 2

// Receiver puts the messages of a stream together into sets.
type Receiver struct {
	limits Limits
	// held are the objects of the last whole set, where they stand in that; commit is
	// that set's.
	held   map[manifests.Digest]*manifests.Object
	commit string
	// open is the set that is being received; nil between sets.
	open *openSet
}

// openSet is a set whose trailer has not come yet.
type openSet struct {
	header *agentrpc.Header
	// fresh are objects that came with this set, without their place in the
	// repository; bytes is their length.
	fresh map[manifests.Digest]*manifests.Object
	bytes int
	refs  []ref
}

// ref is one object of an open set.
type ref struct {
	digest   manifests.Digest
	position manifests.Position
}

// NewReceiver returns a receiver that holds nothing.
func NewReceiver(limits Limits) *Receiver {
	limits.Objects = min(limits.Objects, (grpctool.MaxMessageSize-grpctool.ChunkSize)/helloDigestSize)
	return &Receiver{limits: limits}
}

// Held returns what a hello says: the commit and the digests of the last whole set.
// Both are empty where none is held.
func (r *Receiver) Held() (commit string, digests [][]byte) {
	digests = make([][]byte, 0, len(r.held))
	for d := range r.held {
		digests = append(digests, d[:])
	}
	return r.commit, digests
}

// Restart drops a set that the end of a stream cut short. Call it before the first
// message of a new stream.
func (r *Receiver) Restart() { r.open = nil }

// Forget drops everything, so that the next hello asks for everything.
func (r *Receiver) Forget() { r.open, r.held, r.commit = nil, nil, "" }

// Receive takes one message. It returns a set when the message completes one,
// otherwise nil. An error wraps ErrProtocol or ErrTooLarge.
func (r *Receiver) Receive(msg *agentrpc.ConnectResponse) (*Set, error) {
	set, err := r.receive(msg)
	if err != nil {
		r.Forget()
		return nil, err
	}
	return set, nil
}

func (r *Receiver) receive(msg *agentrpc.ConnectResponse) (*Set, error) {
	if msg.GetMessage() == nil {
		return nil, nil // kas is newer, and says something that this agentk does not know
	}
	if header := msg.GetHeader(); header != nil {
		return nil, r.begin(header)
	}
	if r.open == nil {
		return nil, fmt.Errorf("%w: kas sent %T outside of an object set", ErrProtocol, msg.GetMessage())
	}
	switch m := msg.GetMessage().(type) {
	case *agentrpc.ConnectResponse_Objects:
		return nil, r.open.addObjects(m.Objects.GetObjects(), r.limits)
	case *agentrpc.ConnectResponse_Refs:
		return nil, r.open.addRefs(m.Refs.GetRefs(), r.limits)
	case *agentrpc.ConnectResponse_Trailer:
		return r.close(m.Trailer)
	default:
		return nil, fmt.Errorf("%w: kas sent %T within an object set", ErrProtocol, m)
	}
}

func (r *Receiver) begin(header *agentrpc.Header) error {
	if header.GetCommitId() == "" {
		return fmt.Errorf("%w: kas sent a header without a commit", ErrProtocol)
	}
	if header.GetProjectId() == 0 {
		return fmt.Errorf("%w: kas sent a header without a project", ErrProtocol)
	}
	r.open = &openSet{header: header, fresh: map[manifests.Digest]*manifests.Object{}}
	return nil
}

func (o *openSet) addObjects(objects []*agentrpc.Object, limits Limits) error {
	for _, object := range objects {
		digest, err := digestOf(object.GetDigest())
		if err != nil {
			return err
		}
		if _, ok := o.fresh[digest]; ok {
			continue
		}
		json := object.GetJson()
		if sha256.Sum256(json) != digest {
			return fmt.Errorf("%w: the content that kas sent as %s is something else", ErrProtocol, digest)
		}
		if o.bytes += len(json); o.bytes > limits.Bytes {
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limits.Bytes)
		}
		if len(o.fresh) == limits.Objects {
			return fmt.Errorf("%w: more than %d objects", ErrTooLarge, limits.Objects)
		}
		id, err := identify(json)
		if err != nil {
			return fmt.Errorf("%w: object %s: %w", ErrProtocol, digest, err)
		}
		o.fresh[digest] = &manifests.Object{ID: id, Digest: digest, JSON: json}
	}
	return nil
}

func (o *openSet) addRefs(refs []*agentrpc.Ref, limits Limits) error {
	if len(o.refs)+len(refs) > limits.Objects {
		return fmt.Errorf("%w: more than %d objects", ErrTooLarge, limits.Objects)
	}
	for _, m := range refs {
		digest, err := digestOf(m.GetDigest())
		if err != nil {
			return err
		}
		o.refs = append(o.refs, ref{
			digest:   digest,
			position: manifests.Position{Path: m.GetSourcePath(), Line: int(m.GetSourceLine())},
		})
	}
	return nil
}

// close makes the open set whole. What it does not name is no longer held.
func (r *Receiver) close(trailer *agentrpc.Trailer) (*Set, error) {
	open := r.open
	r.open = nil
	if int64(trailer.GetRefsCount()) != int64(len(open.refs)) {
		return nil, fmt.Errorf("%w: kas announced %d objects and listed %d", ErrProtocol, trailer.GetRefsCount(), len(open.refs))
	}
	if len(trailer.GetErrors()) > r.limits.Errors {
		return nil, fmt.Errorf("%w: more than %d errors", ErrTooLarge, r.limits.Errors)
	}
	objects, held, err := open.resolve(r.held, r.limits)
	if err != nil {
		return nil, err
	}
	if open.header.GetComparisonId() == "" {
		r.held, r.commit = held, open.header.GetCommitId()
	}
	set := &Set{
		ComparisonID: open.header.GetComparisonId(),
		Desired: gitops.Desired{
			Commit: open.header.GetCommitId(),
			Set: manifests.Set{
				Objects:  objects,
				Errors:   fileErrors(trailer),
				Complete: trailer.GetComplete(),
			},
		},
		Ref:         open.header.GetRef(),
		ProjectID:   open.header.GetProjectId(),
		ProjectPath: open.header.GetProjectPath(),
		Traceparent: open.header.GetTraceparent(),
	}
	if at := open.header.GetDetectedAt(); at.IsValid() {
		set.DetectedAt = at.AsTime()
	}
	return set, nil
}

// resolve turns the refs into objects, taking content that did not come with this
// set from what is held already. The second result is what is held from now on.
func (o *openSet) resolve(before map[manifests.Digest]*manifests.Object, limits Limits) ([]manifests.Object, map[manifests.Digest]*manifests.Object, error) {
	objects := make([]manifests.Object, 0, len(o.refs))
	held := make(map[manifests.Digest]*manifests.Object, len(o.refs))
	seen := make(map[inventory.ID]struct{}, len(o.refs))
	bytes := 0
	for _, ref := range o.refs {
		c, ok := o.fresh[ref.digest]
		if !ok {
			c, ok = before[ref.digest]
		}
		if !ok {
			return nil, nil, fmt.Errorf("%w: kas names object %s of %s and did not send it", ErrProtocol, ref.digest, ref.position)
		}
		if _, twice := seen[c.ID]; twice {
			return nil, nil, fmt.Errorf("%w: kas sent %s of %s twice", ErrProtocol, c.ID, ref.position)
		}
		if bytes += len(c.JSON); bytes > limits.Bytes {
			return nil, nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limits.Bytes)
		}
		seen[c.ID] = struct{}{}
		objects = append(objects, manifests.Object{ID: c.ID, Digest: ref.digest, JSON: c.JSON, Position: ref.position})
		held[ref.digest] = &objects[len(objects)-1] // which has room for all
	}
	return objects, held, nil
}

func fileErrors(trailer *agentrpc.Trailer) []manifests.FileError {
	var errs []manifests.FileError
	for _, e := range trailer.GetErrors() {
		errs = append(errs, manifests.FileError{Path: e.GetPath(), Line: int(e.GetLine()), Message: e.GetMessage()})
	}
	return errs
}

func digestOf(b []byte) (manifests.Digest, error) {
	if len(b) != manifests.DigestSize {
		return manifests.Digest{}, fmt.Errorf("%w: kas sent a digest of %d bytes, want %d", ErrProtocol, len(b), manifests.DigestSize)
	}
	return manifests.Digest(b), nil
}
