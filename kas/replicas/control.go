package replicas

import (
	"strconv"
	"strings"
	"time"
)

// instanceLength is how long the name of a process is that all messages begin with.
const instanceLength = 16

// What a control message is about: its first character after the instance.
const (
	agentsChanged  = 'a' // agents have come or gone; their IDs, with blanks between
	replicaChanged = 'r' // a replica has come, begun anew, or gone
	leasesFree     = 'l' // leases were given up; their names, with line ends between
)

func (r *Replicas) controlChannel() string { return r.key("control") }

// control is a message for the control channel.
func (r *Replicas) control(about rune, text string) string {
	return r.instance + string(about) + text
}

// heardControl does what a control message of another replica asks for. What it cannot read
// it takes for a change of everything.
func (r *Replicas) heardControl(message string) {
	if len(message) <= instanceLength {
		r.everythingChanged()
		return
	}
	from, about, text := message[:instanceLength], message[instanceLength], message[instanceLength+1:]
	if from == r.instance {
		return
	}
	switch about {
	case agentsChanged:
		ids, err := parseIDs(text)
		if err != nil {
			r.everythingChanged()
			return
		}
		r.where.changed(ids)
	case leasesFree:
		r.leases.freed(strings.Split(text, "\n"))
	default:
		r.everythingChanged()
	}
}

func (r *Replicas) everythingChanged() {
	r.where.drop()
	r.registry.kick()
}

func formatIDs(ids []int64) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	return b.String()
}

func parseIDs(text string) ([]int64, error) {
	var ids []int64
	for field := range strings.FieldsSeq(text) {
		id, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller does not tell it
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// millis is what scripts take.
func millis(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }
