package state

import (
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kas-agentk/kas/api/clusterstate"
)

const (
	// agePath is how the Kubernetes API describes a custom resource's own column that tells
	// the age.
	agePath = "Custom resource definition column (in JSONPath format): .metadata.creationTimestamp"
	// anyPath is how it describes every such column that has no description of its own.
	anyPath = "Custom resource definition column (in JSONPath format): "
)

// creationText is how the Kubernetes API describes creationTimestamp, and with it the age
// column of its own tables.
var creationText = metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]

// agesOf says of each column whether it tells the time since creation, which an agent
// computes when it sends a row. Nil: none does.
func agesOf(columns [][]byte) []bool {
	var out []bool
	for i, data := range columns {
		c := &clusterstate.Column{}
		if proto.Unmarshal(data, c) != nil || !tellsAge(c) {
			continue
		}
		if out == nil {
			out = make([]bool, len(columns))
		}
		out[i] = true
	}
	return out
}

// tellsAge follows agentk's rule for which cells it computes.
func tellsAge(c *clusterstate.Column) bool {
	named := strings.EqualFold(c.GetName(), "age")
	switch c.GetType() {
	case "date":
		return c.GetDescription() == agePath || named && !strings.HasPrefix(c.GetDescription(), anyPath)
	case "string":
		return named && c.GetDescription() == creationText
	default:
		return false
	}
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
