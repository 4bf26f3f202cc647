package query

import (
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/internal/grpctool"
)

// parts sends an answer in parts of less than grpctool.ChunkSize, or one item each.
type parts struct {
	stream grpc.ServerStream
	// part is the one that is being made, and items how many it holds.
	part  []byte
	items int
}

// add encodes a message and adds it to the part: fields that follow each other are
// joined by whoever decodes them.
func (p *parts) add(message proto.Message) error {
	var err error
	if p.part, err = (proto.MarshalOptions{}).MarshalAppend(p.part, message); err != nil {
		return fmt.Errorf("encode %T: %w", message, err)
	}
	return nil
}

// full says that so many bytes are too many for the part.
func (p *parts) full(size int) bool { return p.items > 0 && len(p.part)+size > grpctool.ChunkSize }

// expect makes room for items like one of so many bytes.
func (p *parts) expect(items, size int) {
	const end = 1 << 10 // what comes after the items
	if p.items == 0 && items > 1 {
		p.part = slices.Grow(p.part, min(items*itemSize(size+size/8), grpctool.ChunkSize)+end)
	}
}

// send sends the part, and begins another.
func (p *parts) send() error {
	// Whoever sends it may hold on to it for a while: it is not used again.
	message := &grpctool.Raw{Data: p.part}
	p.part, p.items = nil, 0
	return p.stream.SendMsg(message) //nolint:wrapcheck // it has a status
}

// item appends an Item of a ListResponse.
func (p *parts) item(e *encoder, size int) {
	p.part = protowire.AppendTag(p.part, listItems, protowire.BytesType)
	p.part = protowire.AppendVarint(p.part, uint64(size))
	p.part = e.appendItem(p.part)
	p.items++
}

// itemSize is how much an Item of so many bytes takes in a part, at most.
func itemSize(size int) int { return size + 16 }
