package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/object"
)

// An entry of a ConfigMap's data: the key is cli-utils' text of the ID, or
// "sha256-<hex>" where that text is too long for a key, has characters that a key
// may not have, or cannot be parsed back; the value is a record in JSON.

// maxKey is the longest key that a ConfigMap takes.
const maxKey = 253

// minEntry is the size of an entry without its ID: punctuation, two hashes, and
// whether it is held.
const minEntry = 16 + 2*32 + 9

var validKey = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)

// hashedPrefix starts a key that is no text of an ID: no ID's text does so, because
// the first field of that ends with an underscore.
const hashedPrefix = "sha256-"

// record is the value of an entry. cli-utils writes other fields ("actuation",
// "reconcile", "strategy") or nothing at all, which is a record that knows nothing.
type record struct {
	Digest    string    `json:"d,omitempty"`
	Ownership string    `json:"o,omitempty"`
	Held      bool      `json:"h,omitempty"`
	ID        *recordID `json:"id,omitempty"`
}

// recordID is there where the key does not tell the ID.
type recordID struct {
	Group     string `json:"g,omitempty"`
	Kind      string `json:"k"`
	Namespace string `json:"ns,omitempty"`
	Name      string `json:"n"`
}

// errKey marks a key that does not belong to its value.
var errKey = errors.New("key and object differ")

// keyOf returns the key of an entry, and false if it is hashed.
func keyOf(id ID) (string, bool) {
	if plain(id.Namespace) && plain(id.Name) && plain(id.GroupKind.Group) && plain(id.GroupKind.Kind) {
		text := id.Namespace + "_" + id.Name + "_" + id.GroupKind.Group + "_" + id.GroupKind.Kind
		if len(text) <= maxKey && !strings.HasPrefix(text, hashedPrefix) {
			return text, true
		}
	} else if text := id.String(); len(text) <= maxKey && validKey.MatchString(text) && !strings.HasPrefix(text, hashedPrefix) {
		if back, err := object.ParseObjMetadata(text); err == nil && back == id {
			return text, true
		}
	}
	// Quoted, so that no two IDs can meet.
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", id.GroupKind.Group, id.GroupKind.Kind, id.Namespace, id.Name))
	return hashedPrefix + hex.EncodeToString(sum[:]), false
}

// plain says that a field of an ID takes no care to be part of a key. Nearly all are so,
// and a set of 10,000 objects has 40,000 of them.
func plain(field string) bool {
	for i := range len(field) {
		switch c := field[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

func encode(id ID, e Entry) (key, value string) {
	key, tells := keyOf(id)
	r := record{Digest: e.Digest.String(), Ownership: e.Ownership.String(), Held: e.Held}
	if !tells {
		r.ID = &recordID{Group: id.GroupKind.Group, Kind: id.GroupKind.Kind, Namespace: id.Namespace, Name: id.Name}
	}
	b, err := json.Marshal(r)
	if err != nil {
		// A struct of strings always marshals.
		return key, ""
	}
	return key, string(b)
}

func decode(key, value string) (ID, Entry, error) {
	var r record
	if value != "" {
		if err := json.Unmarshal([]byte(value), &r); err != nil {
			// The key alone still names the object.
			r = record{}
		}
	}
	id, err := decodeID(key, r.ID)
	if err != nil {
		return ID{}, Entry{}, err
	}
	e := Entry{Held: r.Held}
	// A hash that does not parse is a hash that is not known.
	e.Digest, err = ParseHash(r.Digest)
	if err == nil {
		e.Ownership, err = ParseHash(r.Ownership)
	}
	if err != nil {
		return id, Entry{Held: r.Held}, nil //nolint:nilerr // see above
	}
	return id, e, nil
}

func decodeID(key string, stored *recordID) (ID, error) {
	if stored == nil {
		id, err := object.ParseObjMetadata(key)
		if err != nil {
			return ID{}, fmt.Errorf("decode inventory key: %w", err)
		}
		return id, nil
	}
	id := ID{
		GroupKind: schema.GroupKind{Group: stored.Group, Kind: stored.Kind},
		Namespace: stored.Namespace, Name: stored.Name,
	}
	if want, _ := keyOf(id); want != key {
		return ID{}, fmt.Errorf("decode inventory key %q: %w", key, errKey)
	}
	return id, nil
}

// entrySize is about the bytes that an entry may take in its ConfigMap. All of them
// count from the start, when its hashes are not known yet: it must not have to move to
// another shard, which costs a write after a write, once it has grown.
func entrySize(id ID) int {
	return minEntry + len(id.Namespace) + len(id.Name) + len(id.GroupKind.Group) + len(id.GroupKind.Kind)
}

// shardName of the n-th shard, from 0.
func shardName(id string, n int) string {
	if n == 0 {
		return "inventory-" + id
	}
	return "inventory-" + id + "-" + strconv.Itoa(n)
}
