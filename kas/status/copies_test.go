package status

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/kas-agentk/kas/api/syncstatus"
)

func TestCopies_LargeOnesKeepWhatIsNotWell(t *testing.T) {
	p := &syncstatus.ProjectStatus{AgentId: 7, ProjectId: staging}
	for i := range 100 {
		o := object(fmt.Sprint(i), syncstatus.Action_ACTION_CREATED, syncstatus.Health_HEALTH_CURRENT)
		if i == 50 {
			o.Health = syncstatus.Health_HEALTH_FAILED
		}
		p.Objects = append(p.Objects, o)
	}
	shorten(p, 10)
	if got := names(p); !slices.Equal(got, []string{"50"}) {
		t.Errorf("kept %v", got)
	}
}

func TestCopies_AreNeverTooLarge(t *testing.T) {
	const limit, objects = 10_000, 600
	noise := func() string { // which cannot be compressed
		var b [30]byte
		_, _ = rand.Read(b[:])
		return base64.StdEncoding.EncodeToString(b[:])
	}
	p := &syncstatus.ProjectStatus{AgentId: 7, ProjectId: staging, Message: "it is large"}
	for i := range objects {
		o := object(fmt.Sprint(i), syncstatus.Action_ACTION_FAILED, syncstatus.Health_HEALTH_UNKNOWN)
		o.Message = noise()
		p.Objects = append(p.Objects, o)
		p.Errors = append(p.Errors, &syncstatus.FileError{Message: noise()})
	}
	value, err := encodeWithin(limit, p, "a")
	if err != nil || len(value) > limit {
		t.Fatalf("%d bytes: %v", len(value), err)
	}
	got, owner, err := decode(value)
	if err != nil || owner != "a" || len(got.GetObjects()) == 0 || got.GetMessage() != fmt.Sprintf("it is large; %d more objects are not shown", objects-len(got.GetObjects())) {
		t.Errorf("%d objects of %s, %s: %v", len(got.GetObjects()), owner, got.GetMessage(), err)
	}
	if _, err := encodeWithin(10, p, "a"); !errors.Is(err, errLarge) {
		t.Errorf("a copy of ten bytes: %v", err)
	}
}

func BenchmarkCopy_TenThousandObjects(b *testing.B) {
	p := &syncstatus.ProjectStatus{AgentId: 7, ProjectId: staging}
	for i := range 10_000 {
		o := object(fmt.Sprintf("config-map-%d", i), syncstatus.Action_ACTION_CREATED, syncstatus.Health_HEALTH_CURRENT)
		o.SourcePath, o.SourceLine = fmt.Sprintf("manifests/app-%d/config.yaml", i/10), uint32(i%10*8+1)
		p.Objects = append(p.Objects, o)
	}
	for b.Loop() {
		value, err := encode(p, "grpc://10.1.2.3:8155")
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(value)), "bytes")
	}
}

func FuzzCopy(f *testing.F) {
	value, err := encode(&syncstatus.ProjectStatus{AgentId: 7, ProjectId: staging}, "grpc://a:1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, value []byte) {
		all := copies{staging: value, "": value}
		all.project(Key{7, staging})
		all.configuration()
	})
}
