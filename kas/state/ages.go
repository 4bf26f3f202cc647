package state

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kas-agentk/kas/api/clusterstate"
)

// agesOf says of each column whether it tells the time since creation, which an agent
// computes when it sends a row. Nil: none does.
func agesOf(columns [][]byte) []bool {
	var out []bool
	for i, data := range columns {
		c := &clusterstate.Column{}
		if proto.Unmarshal(data, c) != nil || !c.GetAge() {
			continue
		}
		if out == nil {
			out = make([]bool, len(columns))
		}
		out[i] = true
	}
	return out
}

// aged returns an item with its ages as of now: itself where their texts are still right.
func aged(item []byte, ages []bool, now time.Time) []byte {
	if ages == nil {
		return item
	}
	created := createdOf(item)
	if created == 0 {
		return item
	}
	text := duration.HumanDuration(now.Sub(time.Unix(created, 0)))
	var out []byte
	copied, begin, cell := 0, 0, 0 // bytes of item in out; where a field begins; cells passed
	for fields := (scanner{rest: item}); fields.next(); begin = len(item) - len(fields.rest) {
		if !fields.is(itemCells, protowire.BytesType) {
			continue
		}
		if cell < len(ages) && ages[cell] && string(fields.bytes) != text {
			out = append(out, item[copied:begin]...)
			out = protowire.AppendTag(out, itemCells, protowire.BytesType)
			out = protowire.AppendString(out, text)
			copied = len(item) - len(fields.rest)
		}
		cell++
	}
	if out == nil {
		return item
	}
	return append(out, item[copied:]...)
}

// createdOf returns when an object was created, in seconds since 1970. Zero: not known.
func createdOf(item []byte) int64 {
	created := int64(0)
	for fields := (scanner{rest: item}); fields.next(); {
		if fields.is(itemCreated, protowire.VarintType) {
			created = int64(fields.varint)
		}
	}
	return created
}
