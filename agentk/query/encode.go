package query

import (
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/rawjson"
)

// Items are what answers are made of: they are encoded by hand, which takes a fraction of
// what it takes to make messages of them first. A test holds this against the generated
// code.
const (
	itemNamespace       protowire.Number = 1
	itemName            protowire.Number = 2
	itemUID             protowire.Number = 3
	itemResourceVersion protowire.Number = 4
	itemCreated         protowire.Number = 5
	itemJSON            protowire.Number = 6
	itemCells           protowire.Number = 7

	listItems   protowire.Number = 3
	watchEvents protowire.Number = 4
	eventType   protowire.Number = 1
	eventItem   protowire.Number = 2
)

// encoder encodes the objects of one View as Items of one form.
type encoder struct {
	form objects.Form
	// cut: the objects are whole, and their metadata is wanted.
	cut bool
	// ages says which cells tell the age; nil: none does.
	ages []bool
	now  time.Time
	// aged and age: objects that were made together are as old as each other.
	aged time.Time
	age  string
	// head of the item that was encoded last, and its JSON; both are overwritten by the
	// next.
	head, json []byte
	scratch    []byte
}

func newEncoder(form, view objects.Form, columns []objects.Column, now time.Time) *encoder {
	e := &encoder{form: form, cut: form == objects.Metadata && view == objects.Whole, now: now}
	for i := range columns {
		if columns[i].Age {
			if e.ages == nil {
				e.ages = make([]bool, len(columns))
			}
			e.ages[i] = true
		}
	}
	return e
}

// at sets the moment that ages are told as of.
func (e *encoder) at(now time.Time) { e.now, e.aged = now, time.Time{} }

// encode encodes an item, to be appended by appendItem, and returns its size in bytes. Of
// a deleted object there is no more than who it was.
func (e *encoder) encode(o *objects.Object, deleted bool) int {
	b := e.head[:0]
	b = appendText(b, itemNamespace, o.Namespace)
	b = appendText(b, itemName, o.Name)
	b = appendText(b, itemUID, o.UID)
	b = appendText(b, itemResourceVersion, o.ResourceVersion)
	if created := unix(o.Created); created != 0 {
		b = protowire.AppendTag(b, itemCreated, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(created))
	}
	e.json = nil
	switch {
	case deleted:
	case e.form == objects.Table:
		for i, cell := range o.Cells {
			if i < len(e.ages) && e.ages[i] {
				cell = e.ageOf(o.Created)
			}
			b = protowire.AppendTag(b, itemCells, protowire.BytesType)
			b = protowire.AppendString(b, valid(cell))
		}
	default:
		e.json = e.jsonOf(o)
	}
	e.head = b
	if len(e.json) == 0 {
		return len(b)
	}
	return len(b) + protowire.SizeTag(itemJSON) + protowire.SizeBytes(len(e.json))
}

// appendItem appends what was encoded last.
func (e *encoder) appendItem(dst []byte) []byte {
	dst = append(dst, e.head...)
	if len(e.json) == 0 {
		return dst
	}
	dst = protowire.AppendTag(dst, itemJSON, protowire.BytesType)
	return protowire.AppendBytes(dst, e.json)
}

// message is an item for a message that is not encoded by hand.
func (e *encoder) message(o *objects.Object) *clusterstate.Item {
	item := &clusterstate.Item{
		Namespace: valid(o.Namespace), Name: valid(o.Name), Uid: valid(o.UID), ResourceVersion: valid(o.ResourceVersion),
		Created: unix(o.Created),
	}
	if e.form != objects.Table {
		item.Json = e.jsonOf(o)
		return item
	}
	item.Cells = make([]string, len(o.Cells))
	for i, cell := range o.Cells {
		if i < len(e.ages) && e.ages[i] {
			cell = e.ageOf(o.Created)
		}
		item.Cells[i] = valid(cell)
	}
	return item
}

// jsonOf returns what is wanted of an object. It is good until the next call.
func (e *encoder) jsonOf(o *objects.Object) []byte {
	if !e.cut {
		return o.JSON
	}
	e.scratch = rawjson.AppendMetadata(e.scratch[:0], o.JSON)
	return e.scratch
}

// ageOf tells an age as kubectl does.
func (e *encoder) ageOf(created time.Time) string {
	switch {
	case created.IsZero():
		return "<unknown>"
	case !created.Equal(e.aged):
		e.aged, e.age = created, duration.HumanDuration(e.now.Sub(created))
	}
	return e.age
}

// unix is seconds since 1970; zero: not known.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func appendText(b []byte, field protowire.Number, text string) []byte {
	if text == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), valid(text))
}

// valid returns a text as messages can hold it. Nearly all are so already.
func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

func sourceOf(f objects.Freshness) *clusterstate.Source {
	s := &clusterstate.Source{
		ResourceVersion: f.ResourceVersion, Version: f.Version, Kind: f.Kind, Namespaced: f.Namespaced, Redacted: f.Redacted,
	}
	if !f.CurrentAt.IsZero() {
		s.CurrentAt = timestamppb.New(f.CurrentAt)
	}
	return s
}

func columnsOf(columns []objects.Column) []*clusterstate.Column {
	if len(columns) == 0 {
		return nil
	}
	out := make([]*clusterstate.Column, len(columns))
	for i := range columns {
		c := &columns[i]
		out[i] = &clusterstate.Column{
			Name:        valid(c.Name),
			Type:        valid(c.Type),
			Format:      valid(c.Format),
			Description: valid(c.Description),
			Priority:    c.Priority,
			Age:         c.Age,
		}
	}
	return out
}
