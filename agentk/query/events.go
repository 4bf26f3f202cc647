package query

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
)

// events sends the WatchResponses of one watch.
type events struct {
	parts   parts
	encoder *encoder
	// first is what the next response begins with; nil: nothing.
	first *clusterstate.WatchResponse
	// synced: the caller knows that it has been told everything.
	synced bool
	// told is how many events there were, and count the metric of them.
	told  int
	count prometheus.Counter
}

// reset says that everything follows anew. There must be no response in the making.
func (ev *events) reset() {
	if ev.first == nil {
		ev.first = &clusterstate.WatchResponse{}
	}
	ev.first.Reset_ = true
	ev.synced = false
}

// due says that there is something to send.
func (ev *events) due() bool { return ev.first != nil || !ev.synced || ev.parts.items > 0 }

// step tells how an object came to be after from before, as far as either is wanted.
// now is the object as it is, wanted or not; nil: it is gone. cursor returns that of the
// place before this step.
func (ev *events) step(before, after, now *objects.Object, cursor func() string) error {
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		return ev.tell(clusterstate.EventType_EVENT_TYPE_ADDED, after, nil, cursor)
	case after == nil:
		if now == nil || now.UID != before.UID {
			now = before
		}
		return ev.tell(clusterstate.EventType_EVENT_TYPE_DELETED, now, nil, cursor)
	case before.UID != after.UID: // another object of the same name
		return ev.tell(clusterstate.EventType_EVENT_TYPE_ADDED, after, before, cursor)
	default:
		return ev.tell(clusterstate.EventType_EVENT_TYPE_MODIFIED, after, nil, cursor)
	}
}

// tell adds an event to the response, after that of the deletion of gone, if any. Both
// are in the same one.
func (ev *events) tell(kind clusterstate.EventType, o, gone *objects.Object, cursor func() string) error {
	deleted := kind == clusterstate.EventType_EVENT_TYPE_DELETED
	size := ev.encoder.encode(o, deleted)
	need := itemSize(size)
	if gone != nil {
		need += itemSize(ev.encoder.encode(gone, true))
	}
	if ev.parts.full(need) {
		if err := ev.send(cursor(), false); err != nil {
			return err
		}
	}
	if err := ev.start(); err != nil {
		return err
	}
	if gone != nil {
		ev.add(clusterstate.EventType_EVENT_TYPE_DELETED, ev.encoder.encode(gone, true))
		size = ev.encoder.encode(o, deleted)
	}
	ev.add(kind, size)
	return nil
}

// start begins a response.
func (ev *events) start() error {
	if ev.first == nil {
		return nil
	}
	err := ev.parts.add(ev.first)
	ev.first = nil
	return err
}

// add adds an event of the item that was encoded last.
func (ev *events) add(kind clusterstate.EventType, size int) {
	b := protowire.AppendTag(ev.parts.part, watchEvents, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(eventType)+protowire.SizeVarint(uint64(kind))+
		protowire.SizeTag(eventItem)+protowire.SizeBytes(size)))
	b = protowire.AppendTag(b, eventType, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(kind))
	b = protowire.AppendTag(b, eventItem, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	ev.parts.part = ev.encoder.appendItem(b)
	ev.parts.items++
	ev.told++
}

// send sends the response. caughtUp: the caller now knows everything that there is.
func (ev *events) send(cursor string, caughtUp bool) error {
	if err := ev.start(); err != nil {
		return err
	}
	if err := ev.parts.add(&clusterstate.WatchResponse{Cursor: cursor, Synced: caughtUp && !ev.synced}); err != nil {
		return err
	}
	ev.synced = ev.synced || caughtUp
	ev.count.Add(float64(ev.parts.items))
	return ev.parts.send()
}
