package desired_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/manifests"
)

// configMap returns the canonical JSON of a ConfigMap and its digest.
func configMap(name, value string) (json, digest []byte) {
	text := fmt.Sprintf(`{"apiVersion":"v1","data":{"key":%q},"kind":"ConfigMap","metadata":{"name":%q}}`, value, name)
	sum := sha256.Sum256([]byte(text))
	return []byte(text), sum[:]
}

func header(commit string) *agentrpc.ConnectResponse {
	return &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Header{Header: &agentrpc.Header{
		CommitId: commit, Ref: "branch main", ProjectId: 7, ProjectPath: "demo/manifests",
		DetectedAt: timestamppb.New(time.Unix(1000, 0)),
	}}}
}

func objects(contents ...[]byte) *agentrpc.ConnectResponse {
	m := &agentrpc.Objects{}
	for _, c := range contents {
		sum := sha256.Sum256(c)
		m.Objects = append(m.Objects, &agentrpc.Object{Digest: sum[:], Json: c})
	}
	return &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Objects{Objects: m}}
}

func refs(path string, digests ...[]byte) *agentrpc.ConnectResponse {
	m := &agentrpc.Refs{}
	for i, d := range digests {
		m.Refs = append(m.Refs, &agentrpc.Ref{Digest: d, SourcePath: path, SourceLine: uint32(i + 1)})
	}
	return &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Refs{Refs: m}}
}

func trailer(count uint32, errs ...*syncstatus.FileError) *agentrpc.ConnectResponse {
	return &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Trailer{Trailer: &agentrpc.Trailer{
		RefsCount: count, Errors: errs, Complete: len(errs) == 0,
	}}}
}

// feed gives all messages and returns what the last one led to.
func feed(t *testing.T, r *desired.Receiver, messages ...*agentrpc.ConnectResponse) (*desired.Set, error) {
	t.Helper()
	for i, m := range messages {
		set, err := r.Receive(m)
		if i == len(messages)-1 {
			return set, err
		}
		require.NoError(t, err)
		require.Nil(t, set, "no set before its trailer")
	}
	return nil, nil
}

func TestReceiver_PutsAWholeSetTogether(t *testing.T) {
	a, da := configMap("a", "1")
	b, db := configMap("b", "1")
	r := desired.NewReceiver(desired.DefaultLimits())
	set, err := feed(t, r, header("c1"), objects(a), refs("x.yaml", da), objects(b), refs("y.yaml", db),
		trailer(2, &syncstatus.FileError{Path: "z.yaml", Line: 3, Message: "bad"}))
	require.NoError(t, err)
	require.Equal(t, "c1", set.Commit)
	require.Equal(t, "branch main", set.Ref)
	require.EqualValues(t, 7, set.ProjectID)
	require.Equal(t, "demo/manifests", set.ProjectPath)
	require.Equal(t, time.Unix(1000, 0).UTC(), set.DetectedAt)
	require.False(t, set.Set.Complete)
	require.Equal(t, []manifests.FileError{{Path: "z.yaml", Line: 3, Message: "bad"}}, set.Set.Errors)
	require.Len(t, set.Set.Objects, 2)
	require.Equal(t, "ConfigMap", set.Set.Objects[0].ID.GroupKind.Kind)
	require.Equal(t, "a", set.Set.Objects[0].ID.Name)
	require.Equal(t, "y.yaml:1", set.Set.Objects[1].Position.String())
	require.Equal(t, string(b), string(set.Set.Objects[1].JSON))

	commit, digests := r.Held()
	require.Equal(t, "c1", commit)
	require.ElementsMatch(t, [][]byte{da, db}, digests)
}

func TestReceiver_TakesFromWhatItHolds(t *testing.T) {
	a, da := configMap("a", "1")
	b, db := configMap("b", "1")
	b2, db2 := configMap("b", "2")
	r := desired.NewReceiver(desired.DefaultLimits())
	first, err := feed(t, r, header("c1"), objects(a, b), refs("x.yaml", da, db), trailer(2))
	require.NoError(t, err)
	second, err := feed(t, r, header("c2"), objects(b2), refs("x.yaml", da, db2), trailer(2))
	require.NoError(t, err)
	require.Equal(t, string(a), string(second.Set.Objects[0].JSON))
	require.Equal(t, string(b2), string(second.Set.Objects[1].JSON))
	require.False(t, first.Same(second))

	_, digests := r.Held()
	require.ElementsMatch(t, [][]byte{da, db2}, digests, "what left the set is no longer held")
	_, err = feed(t, r, header("c3"), refs("x.yaml", da, db), trailer(2))
	require.ErrorIs(t, err, desired.ErrProtocol)
}

func TestReceiver_CutShortLeavesWhatIsHeld(t *testing.T) {
	a, da := configMap("a", "1")
	b, db := configMap("b", "1")
	for _, row := range []struct {
		name string
		cut  func(*desired.Receiver) error
	}{
		{"by a new header", func(r *desired.Receiver) error { _, err := r.Receive(header("c3")); return err }},
		{"by the end of the stream", func(r *desired.Receiver) error {
			r.Restart()
			_, err := r.Receive(header("c3"))
			return err
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := desired.NewReceiver(desired.DefaultLimits())
			_, err := feed(t, r, header("c1"), objects(a), refs("x.yaml", da), trailer(1))
			require.NoError(t, err)
			_, err = feed(t, r, header("c2"), objects(b))
			require.NoError(t, err)
			require.NoError(t, row.cut(r))
			commit, digests := r.Held()
			require.Equal(t, "c1", commit)
			require.Equal(t, [][]byte{da}, digests)
			_, err = feed(t, r, refs("x.yaml", db), trailer(1))
			require.ErrorIs(t, err, desired.ErrProtocol, "what came with a void set is not held")
		})
	}
}

func TestReceiver_EmptySetIsASet(t *testing.T) {
	r := desired.NewReceiver(desired.DefaultLimits())
	set, err := feed(t, r, header("c1"), trailer(0))
	require.NoError(t, err)
	require.True(t, set.Set.Complete)
	require.Empty(t, set.Set.Objects)
}

func TestReceiver_SkipsMessagesThatItDoesNotKnow(t *testing.T) {
	a, da := configMap("a", "1")
	r := desired.NewReceiver(desired.DefaultLimits())
	unknown := &agentrpc.ConnectResponse{}
	set, err := feed(t, r, unknown, header("c1"), unknown, objects(a), refs("x.yaml", da), unknown, trailer(1))
	require.NoError(t, err)
	require.Len(t, set.Set.Objects, 1)
}

func TestReceiver_SetToBeComparedIsNotHeld(t *testing.T) {
	a, da := configMap("a", "1")
	b, db := configMap("b", "1")
	r := desired.NewReceiver(desired.DefaultLimits())
	_, err := feed(t, r, header("c1"), objects(a), refs("x.yaml", da), trailer(1))
	require.NoError(t, err)
	compared := header("c2")
	compared.GetHeader().ComparisonId = "q1"
	set, err := feed(t, r, compared, objects(b), refs("x.yaml", da, db), trailer(2))
	require.NoError(t, err)
	require.Equal(t, "q1", set.ComparisonID)
	require.Len(t, set.Set.Objects, 2)
	commit, digests := r.Held()
	require.Equal(t, "c1", commit)
	require.Equal(t, [][]byte{da}, digests)
}

func TestReceiver_RefusesWhatBreaksTheProtocol(t *testing.T) {
	a, da := configMap("a", "1")
	a2, da2 := configMap("a", "2")
	_, unsent := configMap("b", "1")
	nameless := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}`)
	badVersion := []byte(`{"apiVersion":"a/b/c","kind":"X","metadata":{"name":"x"}}`)
	for _, row := range []struct {
		name     string
		messages []*agentrpc.ConnectResponse
	}{
		{"objects before a header", []*agentrpc.ConnectResponse{objects(a)}},
		{"a command, which is not the receiver's", []*agentrpc.ConnectResponse{{Message: &agentrpc.ConnectResponse_Command{}}}},
		{"a command inside a set", []*agentrpc.ConnectResponse{header("c1"), {Message: &agentrpc.ConnectResponse_Command{}}}},
		{"a header without a commit", []*agentrpc.ConnectResponse{header("")}},
		{"content that is not what its digest says", []*agentrpc.ConnectResponse{header("c1"), {Message: &agentrpc.ConnectResponse_Objects{
			Objects: &agentrpc.Objects{Objects: []*agentrpc.Object{{Digest: da2, Json: a}}},
		}}}},
		{"a digest that is too short", []*agentrpc.ConnectResponse{header("c1"), refs("x", da[:31])}},
		{"an object without a name", []*agentrpc.ConnectResponse{header("c1"), objects(nameless)}},
		{"an object with a strange apiVersion", []*agentrpc.ConnectResponse{header("c1"), objects(badVersion)}},
		{"an object that is no object", []*agentrpc.ConnectResponse{header("c1"), objects([]byte(`[]`))}},
		{"a ref to what was not sent", []*agentrpc.ConnectResponse{header("c1"), refs("x", unsent), trailer(1)}},
		{"fewer refs than announced", []*agentrpc.ConnectResponse{header("c1"), objects(a), refs("x", da), trailer(2)}},
		{"more refs than announced", []*agentrpc.ConnectResponse{header("c1"), objects(a), refs("x", da), trailer(0)}},
		{"one object twice", []*agentrpc.ConnectResponse{header("c1"), objects(a, a2), refs("x", da, da2), trailer(2)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := desired.NewReceiver(desired.DefaultLimits())
			h, dh := configMap("held", "1")
			_, err := feed(t, r, header("c0"), objects(h), refs("x", dh), trailer(1))
			require.NoError(t, err)
			_, err = feed(t, r, row.messages...)
			require.ErrorIs(t, err, desired.ErrProtocol)
			commit, digests := r.Held()
			require.Empty(t, commit, "all is forgotten")
			require.Empty(t, digests)
		})
	}
}

func TestReceiver_RefusesWhatIsTooLarge(t *testing.T) {
	a, da := configMap("a", strings.Repeat("x", 100))
	b, db := configMap("b", strings.Repeat("x", 100))
	for _, row := range []struct {
		name     string
		limits   desired.Limits
		messages []*agentrpc.ConnectResponse
	}{
		{"more bytes sent", desired.Limits{Objects: 9, Bytes: 200, Errors: 9}, []*agentrpc.ConnectResponse{header("c1"), objects(a, b)}},
		{"more objects sent", desired.Limits{Objects: 1, Bytes: 999, Errors: 9}, []*agentrpc.ConnectResponse{header("c1"), objects(a, b)}},
		{"more refs", desired.Limits{Objects: 1, Bytes: 999, Errors: 9}, []*agentrpc.ConnectResponse{header("c1"), refs("x", da, db)}},
		{"more errors", desired.Limits{Objects: 9, Bytes: 999}, []*agentrpc.ConnectResponse{header("c1"), trailer(0, &syncstatus.FileError{})}},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := feed(t, desired.NewReceiver(row.limits), row.messages...)
			require.ErrorIs(t, err, desired.ErrTooLarge)
		})
	}
}

func TestReceiver_BytesCountWhatIsHeldToo(t *testing.T) {
	a, da := configMap("a", strings.Repeat("x", 100))
	b, db := configMap("b", strings.Repeat("x", 100))
	r := desired.NewReceiver(desired.Limits{Objects: 9, Bytes: 250, Errors: 9})
	_, err := feed(t, r, header("c1"), objects(a), refs("x", da), trailer(1))
	require.NoError(t, err)
	_, err = feed(t, r, header("c2"), objects(b), refs("x", da, db), trailer(2))
	require.ErrorIs(t, err, desired.ErrTooLarge)
}

func TestReceiver_HelloOfALargestSetFitsAMessage(t *testing.T) {
	r := desired.NewReceiver(desired.Limits{Objects: 1 << 30, Bytes: 1 << 30, Errors: 1})
	n := 0
	var err error
	_, err = r.Receive(header("c1"))
	require.NoError(t, err)
	for err == nil && n < 200_000 {
		_, err = r.Receive(refs("x", make([]byte, manifests.DigestSize)))
		n++
	}
	require.ErrorIs(t, err, desired.ErrTooLarge)
	digests := make([][]byte, n-1)
	for i := range digests {
		digests[i] = make([]byte, manifests.DigestSize)
	}
	require.Less(t, proto.Size(&agentrpc.Hello{Digests: digests}), grpctool.MaxMessageSize-grpctool.ChunkSize/2)
}

func TestSet_SameLooksAtEverything(t *testing.T) {
	a, da := configMap("a", "1")
	get := func(messages ...*agentrpc.ConnectResponse) *desired.Set {
		set, err := feed(t, desired.NewReceiver(desired.DefaultLimits()), messages...)
		require.NoError(t, err)
		return set
	}
	one := get(header("c1"), objects(a), refs("x.yaml", da), trailer(1))
	require.True(t, one.Same(get(header("c1"), objects(a), refs("x.yaml", da), trailer(1))))
	require.False(t, one.Same(get(header("c2"), objects(a), refs("x.yaml", da), trailer(1))), "another commit")
	require.False(t, one.Same(get(header("c1"), objects(a), refs("y.yaml", da), trailer(1))), "another place")
	require.False(t, one.Same(get(header("c1"), trailer(0))), "other objects")
	require.False(t, one.Same(get(header("c1"), objects(a), refs("x.yaml", da), trailer(1, &syncstatus.FileError{Path: "b"}))), "other errors")
}

// FuzzReceiver feeds a stream of length-prefixed messages to a receiver: whatever
// comes, it must not panic, and what it hands out must keep the promises.
func FuzzReceiver(f *testing.F) {
	a, da := configMap("a", "1")
	seed := func(messages ...*agentrpc.ConnectResponse) {
		var data []byte
		for _, m := range messages {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			data = append(data, byte(len(b)>>8), byte(len(b)))
			data = append(data, b...)
		}
		f.Add(data)
	}
	seed(header("c1"), objects(a), refs("x.yaml", da), trailer(1))
	seed(header("c1"), header("c2"), trailer(0))
	seed(objects(a))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := desired.NewReceiver(desired.Limits{Objects: 100, Bytes: 1 << 16, Errors: 10})
		for len(data) >= 2 {
			n := min(int(data[0])<<8|int(data[1]), len(data)-2)
			var m agentrpc.ConnectResponse
			if proto.Unmarshal(data[2:2+n], &m) == nil {
				set, err := r.Receive(&m)
				if set != nil && err != nil {
					t.Fatal("a set and an error")
				}
				if set != nil {
					checkSet(t, r, set)
				}
			}
			data = data[2+n:]
		}
	})
}

func checkSet(t *testing.T, r *desired.Receiver, set *desired.Set) {
	t.Helper()
	if set.Commit == "" || set.ProjectID == 0 {
		t.Fatal("a set of nowhere")
	}
	for _, o := range set.Set.Objects {
		if sha256.Sum256(o.JSON) != o.Digest || o.ID.Name == "" {
			t.Fatalf("a wrong object: %+v", o)
		}
	}
	if _, digests := r.Held(); len(digests) != len(set.Set.Objects) {
		t.Fatal("held is not the last whole set")
	}
}
