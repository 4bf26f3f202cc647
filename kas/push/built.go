package push

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/manifests"
)

// built is an object set, ready to be sent to many. It never changes.
type built struct {
	commitID   string
	ref        string
	detectedAt time.Time
	// traceparent is the W3C trace context of its making. Empty: it is not traced.
	traceparent string
	set         manifests.Set
	// digests of the set.
	digests map[manifests.Digest]struct{}
	// note is worth knowing for people. Empty: nothing.
	note string
	// refs returns the messages that list the set.
	refs    func() []*agentrpc.ConnectResponse
	trailer *agentrpc.ConnectResponse
	// errors of the set, as the status has them.
	errors []*syncstatus.FileError
}

func newBuilt(revision gitrepo.Revision, set manifests.Set, note string) *built {
	b := &built{
		commitID:   revision.CommitID,
		ref:        revision.Ref.String(),
		detectedAt: revision.DetectedAt,
		set:        set,
		digests:    set.Digests(),
		note:       note,
	}
	for i := range set.Errors {
		e := &set.Errors[i]
		b.errors = append(b.errors, &syncstatus.FileError{Path: e.Path, Line: uint32(e.Line), Message: e.Message})
	}
	b.refs = sync.OnceValue(b.makeRefs)
	b.trailer = &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Trailer{Trailer: &agentrpc.Trailer{
		RefsCount: uint32(len(set.Objects)),
		Errors:    b.errors,
		Complete:  set.Complete,
	}}}
	return b
}

func (b *built) makeRefs() []*agentrpc.ConnectResponse {
	refs := make([]*agentrpc.Ref, len(b.set.Objects))
	for i := range b.set.Objects {
		o := &b.set.Objects[i]
		refs[i] = &agentrpc.Ref{Digest: o.Digest[:], SourcePath: o.Position.Path, SourceLine: uint32(o.Position.Line)}
	}
	return chunk(refs, func(part []*agentrpc.Ref) *agentrpc.ConnectResponse {
		return &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Refs{Refs: &agentrpc.Refs{Refs: part}}}
	})
}

// objectMessages returns the messages that carry objects.
func objectMessages(objects []manifests.Object) []*agentrpc.ConnectResponse {
	list := make([]*agentrpc.Object, len(objects))
	for i := range objects {
		list[i] = &agentrpc.Object{Digest: objects[i].Digest[:], Json: objects[i].JSON}
	}
	return chunk(list, func(part []*agentrpc.Object) *agentrpc.ConnectResponse {
		return &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Objects{Objects: &agentrpc.Objects{Objects: part}}}
	})
}

// chunk cuts a list into messages of at most grpctool.ChunkSize, or of one element
// that is larger by itself.
func chunk[E proto.Message](list []E, message func([]E) *agentrpc.ConnectResponse) []*agentrpc.ConnectResponse {
	const perElement = 8 // tag and length
	var messages []*agentrpc.ConnectResponse
	start, size := 0, 0
	for i, e := range list {
		n := proto.Size(e) + perElement
		if i > start && size+n > grpctool.ChunkSize {
			messages = append(messages, message(list[start:i]))
			start, size = i, 0
		}
		size += n
	}
	if start < len(list) {
		messages = append(messages, message(list[start:]))
	}
	return messages
}

// delta is what the holder of one set lacks of another.
type delta struct {
	messages []*agentrpc.ConnectResponse
	objects  int
	bytes    int
}

func newDelta(set *manifests.Set, held map[manifests.Digest]struct{}) *delta {
	fresh := manifests.Delta(set, held)
	d := &delta{messages: objectMessages(fresh), objects: len(fresh)}
	for i := range fresh {
		d.bytes += len(fresh[i].JSON)
	}
	return d
}

// deltaMemo remembers the newest delta, because all agents that keep up need the
// same one.
type deltaMemo struct {
	from, to *built
	delta    *delta
}

// delta returns what the holder of from lacks of to. from may be nil: it holds
// nothing then.
func (f *feed) delta(from, to *built) *delta {
	f.mu.Lock()
	memo := f.memo
	f.mu.Unlock()
	if memo.delta != nil && memo.from == from && memo.to == to {
		return memo.delta
	}
	var held map[manifests.Digest]struct{}
	if from != nil {
		held = from.digests
	}
	d := newDelta(&to.set, held)
	f.mu.Lock()
	f.memo = deltaMemo{from: from, to: to, delta: d}
	f.mu.Unlock()
	return d
}
