package query

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"io"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
)

// Tokens are opaque to others: base64 of a letter, the hash of the question that they
// belong to, and what follows.
const (
	// tokenKey is followed by the last key of a List: the length of the namespace, the
	// namespace and the name.
	tokenKey = 'k'
	// tokenPosition is followed by a sequence number and an epoch.
	tokenPosition = 'p'
	// tokenUnfinished is of a place from which nothing can be gone on. What follows makes
	// it different from others.
	tokenUnfinished = 'u'
	// tokenHead is how long the letter and the hash are.
	tokenHead = 5
)

// hashOf a question: that of the same one is the same, in any process.
func hashOf(q *clusterstate.Query) uint32 {
	h := fnv.New32a()
	r := q.GetResource()
	for _, part := range []string{r.GetGroup(), r.GetVersion(), r.GetResource(), q.GetNamespace(), q.GetLabelSelector(), q.GetFieldSelector()} {
		_, _ = io.WriteString(h, part) // never fails
		_, _ = h.Write([]byte{0})
	}
	shape := q.GetShape()
	if shape == clusterstate.Shape_SHAPE_UNSPECIFIED {
		shape = clusterstate.Shape_SHAPE_OBJECT
	}
	_, _ = h.Write([]byte{byte(shape)})
	return h.Sum32()
}

func token(letter byte, hash uint32, number uint64, texts ...string) string {
	b := make([]byte, 0, 64)
	b = binary.BigEndian.AppendUint32(append(b, letter), hash)
	b = binary.AppendUvarint(b, number)
	for _, t := range texts {
		b = append(b, t...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// readToken returns the letter and what follows the hash. It is not ok where the token is
// another question's, or none.
func readToken(text string, hash uint32) (letter byte, number uint64, rest string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < tokenHead || binary.BigEndian.Uint32(b[1:]) != hash {
		return 0, 0, "", false
	}
	number, n := binary.Uvarint(b[tokenHead:])
	if n <= 0 {
		return 0, 0, "", false
	}
	return b[0], number, string(b[tokenHead+n:]), true
}

func (q *question) continueAfter(k objects.Key) string {
	return token(tokenKey, q.hash, uint64(len(k.Namespace)), k.Namespace, k.Name)
}

func (q *question) readContinue(text string) (objects.Key, error) {
	letter, n, rest, ok := readToken(text, q.hash)
	if !ok || letter != tokenKey || n > uint64(len(rest)) {
		return objects.Key{}, invalid("continue is not of an answer to this query: leave it out, or repeat the query that it came with")
	}
	return objects.Key{Namespace: rest[:n], Name: rest[n:]}, nil
}

func (q *question) cursor(p objects.Position) string {
	return token(tokenPosition, q.hash, p.Sequence, p.Epoch)
}

// unfinished is the cursor of a place that nothing can be gone on from, such as in the
// middle of all objects. No other watch has the same: equal cursors mean equal knowledge.
func (q *question) unfinished(p objects.Position, told int) string {
	rest := binary.AppendUvarint(binary.BigEndian.AppendUint64(nil, q.asked), uint64(told))
	return token(tokenUnfinished, q.hash, p.Sequence, p.Epoch, "/", string(rest))
}

// readCursor returns where to go on; nil: nowhere, begin anew.
func (q *question) readCursor(text string) *objects.Position {
	letter, sequence, epoch, ok := readToken(text, q.hash)
	if !ok || letter != tokenPosition {
		return nil
	}
	return &objects.Position{Epoch: epoch, Sequence: sequence}
}
