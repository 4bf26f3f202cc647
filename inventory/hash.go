package inventory

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Hash is a SHA-256 cut to 16 bytes: short, because an inventory holds two for
// every object, and long enough that two never meet by chance. The zero Hash stands
// for "none".
type Hash [16]byte

// Short cuts a whole SHA-256 to a Hash.
func Short(sum [sha256.Size]byte) Hash { return Hash(sum[:len(Hash{})]) }

// IsZero says that there is no hash.
func (h Hash) IsZero() bool { return h == Hash{} }

// String is the unpadded URL-safe base64 of the hash; empty for the zero Hash.
func (h Hash) String() string {
	if h.IsZero() {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// ParseHash reads what String returned.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if s == "" {
		return h, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return Hash{}, fmt.Errorf("decode hash %q: %w", s, err)
	}
	if len(b) != len(h) {
		return Hash{}, fmt.Errorf("decode hash %q: %d bytes, want %d", s, len(b), len(h))
	}
	copy(h[:], b)
	return h, nil
}

// OwnershipOf is the hash of the fields of an object that manager owns by
// server-side apply: of their names, and of the time of the manager's last apply that
// changed something. When anyone else changes or removes one of them, the API server
// takes it out of the manager's entry; when somebody applies other values in the
// manager's name, such as a replica that does not know yet that it leads no more, or
// a process that died before it could record what it did, the time is another.
// Either way the hash changes. It is zero where the manager owns nothing.
func OwnershipOf(entries []metav1.ManagedFieldsEntry, manager string) Hash {
	var own []string
	for i := range entries {
		e := &entries[i]
		if e.Manager != manager || e.Operation != metav1.ManagedFieldsOperationApply || e.Subresource != "" {
			continue
		}
		applied := ""
		if e.Time != nil {
			applied = strconv.FormatInt(e.Time.Unix(), 10)
		}
		own = append(own, e.APIVersion+"\n"+applied+"\n"+canonicalFields(e.FieldsV1))
	}
	if len(own) == 0 {
		return Hash{}
	}
	slices.Sort(own)
	h := sha256.New()
	for _, s := range own {
		fmt.Fprintf(h, "%d\n%s", len(s), s)
	}
	return Short([sha256.Size]byte(h.Sum(nil)))
}

// canonicalFields is the JSON of f with its keys sorted: different encodings of a
// response order them differently.
func canonicalFields(f *metav1.FieldsV1) string {
	if f == nil {
		return ""
	}
	raw := f.GetRawBytes()
	if sortedFields(raw) {
		return string(raw)
	}
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return string(raw)
	}
	sorted, err := json.Marshal(v)
	if err != nil {
		return string(raw)
	}
	return string(sorted)
}
