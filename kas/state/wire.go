package state

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kas-agentk/kas/api/clusterstate"
)

// Numbers of fields, as api/railsrpc/clusterstate.proto and
// api/clusterstate/clusterstate.proto give them. A test compares.
const (
	// of ClusterGetRequest, ClusterListRequest and ClusterWatchRequest
	fieldAgentID protowire.Number = 1
	fieldRequest protowire.Number = 2

	watchSource  protowire.Number = 1
	watchColumns protowire.Number = 2
	watchReset   protowire.Number = 3
	watchEvents  protowire.Number = 4
	watchSynced  protowire.Number = 5
	watchCursor  protowire.Number = 6

	eventType protowire.Number = 1
	eventItem protowire.Number = 2

	itemNamespace protowire.Number = 1
	itemName      protowire.Number = 2
	itemCreated   protowire.Number = 5
	itemCells     protowire.Number = 7

	listSource protowire.Number = 1

	fleetAgentID  protowire.Number = 1
	fleetResponse protowire.Number = 2
)

// errMalformed is wrapped by errors about bytes that are not the message they should be.
var errMalformed = errors.New("malformed message")

// scanner goes through the fields of an encoded message.
type scanner struct {
	rest []byte
	num  protowire.Number
	typ  protowire.Type
	// bytes of a field of that type; it refers to what is scanned.
	bytes []byte
	// varint of a field of that type.
	varint uint64
	err    error
}

// next goes to the next field; false: there is none, or err is set.
func (s *scanner) next() bool {
	if len(s.rest) == 0 || s.err != nil {
		return false
	}
	num, typ, n := protowire.ConsumeTag(s.rest)
	if n < 0 {
		return s.fail(n)
	}
	s.rest = s.rest[n:]
	s.num, s.typ, s.bytes, s.varint = num, typ, nil, 0
	switch typ {
	case protowire.BytesType:
		s.bytes, n = protowire.ConsumeBytes(s.rest)
	case protowire.VarintType:
		s.varint, n = protowire.ConsumeVarint(s.rest)
	default:
		n = protowire.ConsumeFieldValue(num, typ, s.rest)
	}
	if n < 0 {
		return s.fail(n)
	}
	s.rest = s.rest[n:]
	return true
}

func (s *scanner) fail(n int) bool {
	s.err = fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
	return false
}

// is tells whether the field is this one.
func (s *scanner) is(num protowire.Number, typ protowire.Type) bool {
	return s.num == num && s.typ == typ
}

// question takes apart a request for one agent: which, and the encoded request for it.
func question(data []byte) (agentID int64, request []byte, err error) {
	fields := scanner{rest: data}
	for fields.next() {
		switch {
		case fields.is(fieldAgentID, protowire.VarintType):
			agentID = int64(fields.varint)
		case fields.is(fieldRequest, protowire.BytesType) && request == nil:
			request = fields.bytes
		case fields.is(fieldRequest, protowire.BytesType):
			// As protobuf has it, what comes twice is merged: which is to append it.
			request = append(request[:len(request):len(request)], fields.bytes...)
		}
	}
	return agentID, request, fields.err
}

// message is a WatchResponse of an agent. All of it refers to raw.
type message struct {
	raw []byte
	// head is whether there is a source or a column.
	head          bool
	source        []byte
	columns       [][]byte
	events        [][]byte
	reset, synced bool
	cursor        string
}

// parse takes a WatchResponse apart.
func parse(raw []byte) (message, error) {
	m := message{raw: raw}
	fields := scanner{rest: raw}
	for fields.next() {
		switch {
		case fields.is(watchSource, protowire.BytesType):
			m.source, m.head = fields.bytes, true
		case fields.is(watchColumns, protowire.BytesType):
			m.columns, m.head = append(m.columns, fields.bytes), true
		case fields.is(watchReset, protowire.VarintType):
			m.reset = fields.varint != 0
		case fields.is(watchEvents, protowire.BytesType):
			m.events = append(m.events, fields.bytes)
		case fields.is(watchSynced, protowire.VarintType):
			m.synced = fields.varint != 0
		case fields.is(watchCursor, protowire.BytesType):
			m.cursor = string(fields.bytes)
		}
	}
	return m, fields.err
}

// encode returns the message with or without source and columns, and with or without
// synced: without a copy where nothing is left out.
func (m *message) encode(withHead, withSynced bool) []byte {
	if (withHead || !m.head) && (withSynced || !m.synced) {
		return m.raw
	}
	out := make([]byte, 0, len(m.raw))
	if withHead {
		out = appendHead(out, m.source, m.columns)
	}
	if m.reset {
		out = appendBool(out, watchReset)
	}
	for _, e := range m.events {
		out = appendBytes(out, watchEvents, e)
	}
	if withSynced && m.synced {
		out = appendBool(out, watchSynced)
	}
	return appendCursor(out, m.cursor)
}

// key of an object among those of a watch.
type key struct{ namespace, name string }

// parseEvent takes an event apart. item refers to data.
func parseEvent(data []byte) (kind clusterstate.EventType, item []byte, err error) {
	fields := scanner{rest: data}
	for fields.next() {
		switch {
		case fields.is(eventType, protowire.VarintType):
			kind = clusterstate.EventType(fields.varint)
		case fields.is(eventItem, protowire.BytesType):
			item = fields.bytes
		}
	}
	return kind, item, fields.err
}

// keyOf returns the key of an item.
func keyOf(item []byte) (key, error) {
	var k key
	fields := scanner{rest: item}
	for fields.next() {
		switch {
		case fields.is(itemNamespace, protowire.BytesType):
			k.namespace = string(fields.bytes)
		case fields.is(itemName, protowire.BytesType):
			k.name = string(fields.bytes)
		}
	}
	return k, fields.err
}

func appendHead(out, source []byte, columns [][]byte) []byte {
	if source != nil {
		out = appendBytes(out, watchSource, source)
	}
	for _, c := range columns {
		out = appendBytes(out, watchColumns, c)
	}
	return out
}

// appendAdded appends an event that adds an item.
func appendAdded(out, item []byte) []byte {
	out = protowire.AppendTag(out, watchEvents, protowire.BytesType)
	size := protowire.SizeTag(eventType) + 1 + protowire.SizeTag(eventItem) + protowire.SizeBytes(len(item))
	out = protowire.AppendVarint(out, uint64(size))
	out = protowire.AppendTag(out, eventType, protowire.VarintType)
	out = protowire.AppendVarint(out, uint64(clusterstate.EventType_EVENT_TYPE_ADDED))
	return appendBytes(out, eventItem, item)
}

func appendCursor(out []byte, cursor string) []byte {
	if cursor == "" {
		return out
	}
	out = protowire.AppendTag(out, watchCursor, protowire.BytesType)
	return protowire.AppendString(out, cursor)
}

func appendBytes(out []byte, num protowire.Number, value []byte) []byte {
	out = protowire.AppendTag(out, num, protowire.BytesType)
	return protowire.AppendBytes(out, value)
}

func appendBool(out []byte, num protowire.Number) []byte {
	out = protowire.AppendTag(out, num, protowire.VarintType)
	return protowire.AppendVarint(out, 1)
}
