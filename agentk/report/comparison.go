package report

import (
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// Comparisons says differences in the protocol's words, in messages of at most
// grpctool.ChunkSize; all but the last say that more follow. There is at least one.
func Comparisons(id string, differences []gitops.Difference) []*agentrpc.Comparison {
	current := &agentrpc.Comparison{Id: id}
	all := []*agentrpc.Comparison{current}
	size := proto.Size(current)
	for i := range differences {
		d := difference(&differences[i])
		n := proto.Size(d) + fieldOverhead
		if size+n > grpctool.ChunkSize && len(current.Differences) > 0 {
			current.More = true
			current = &agentrpc.Comparison{Id: id}
			all = append(all, current)
			size = proto.Size(current)
		}
		current.Differences = append(current.Differences, d)
		size += n
	}
	return all
}

func difference(d *gitops.Difference) *syncstatus.Difference {
	out := &syncstatus.Difference{
		Id:         objectID(d.ID),
		Version:    d.Version,
		Action:     actions[d.Action],
		Message:    Clip(d.Message),
		SourcePath: d.Position.Path,
		SourceLine: uint32(max(0, d.Position.Line)),
	}
	for _, f := range d.Fields {
		out.Fields = append(out.Fields, &syncstatus.FieldDifference{Path: valid(f.Path), Before: valid(f.Before), After: valid(f.After)})
	}
	return out
}
