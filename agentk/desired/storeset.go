package desired

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// encodeSet writes a set as kas would send it, so that it is read by a Receiver, with
// all its checks. A hello before it says what the set was meant for.
func encodeSet(w io.Writer, agentID int64, project *agentcfg.ManifestProject, set *Set) error {
	return encode(w, about{AgentID: agentID}, func(put func(proto.Message) error) error {
		if err := put(&agentrpc.Hello{Project: project, CommitId: set.Commit}); err != nil {
			return err
		}
		if err := put(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Header{Header: headerOf(set)}}); err != nil {
			return err
		}
		for i := range set.Set.Objects {
			o := &set.Set.Objects[i]
			objects := &agentrpc.Objects{Objects: []*agentrpc.Object{{Digest: o.Digest[:], Json: o.JSON}}}
			if err := put(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Objects{Objects: objects}}); err != nil {
				return err
			}
			refs := &agentrpc.Refs{Refs: []*agentrpc.Ref{{
				Digest: o.Digest[:], SourcePath: o.Position.Path, SourceLine: line(o.Position.Line),
			}}}
			if err := put(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Refs{Refs: refs}}); err != nil {
				return err
			}
		}
		return put(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Trailer{Trailer: trailerOf(set)}})
	})
}

func headerOf(set *Set) *agentrpc.Header {
	header := &agentrpc.Header{
		CommitId: set.Commit, Ref: set.Ref, Mode: agentrpc.Mode_MODE_FULL,
		ProjectId: set.ProjectID, ProjectPath: set.ProjectPath,
	}
	if !set.DetectedAt.IsZero() {
		header.DetectedAt = timestamppb.New(set.DetectedAt)
	}
	return header
}

func trailerOf(set *Set) *agentrpc.Trailer {
	trailer := &agentrpc.Trailer{
		RefsCount: uint32(len(set.Set.Objects)),
		Complete:  set.Set.Complete,
	}
	for _, e := range set.Set.Errors {
		trailer.Errors = append(trailer.Errors, &syncstatus.FileError{Path: e.Path, Line: line(e.Line), Message: e.Message})
	}
	return trailer
}

func line(n int) uint32 { return uint32(max(n, 0)) }

// decodeSet reads a set into r, unless it was meant for other files than the project
// asks for now.
func decodeSet(d *decoder, project *agentcfg.ManifestProject, r *Receiver) (*Set, error) {
	hello := &agentrpc.Hello{}
	if ok, err := d.next(hello); err != nil || !ok {
		return nil, errors.Join(errForeign, err)
	}
	if !proto.Equal(source(hello.GetProject()), source(project)) {
		return nil, ErrNotKept
	}
	var set *Set
	for set == nil {
		message := &agentrpc.ConnectResponse{}
		ok, err := d.next(message)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%w: the set has no end", errForeign)
		}
		if set, err = r.Receive(message); err != nil {
			return nil, err
		}
	}
	set.Restored = true
	return set, nil
}

// source is what of a project's configuration decides which objects it has.
func source(p *agentcfg.ManifestProject) *agentcfg.ManifestProject {
	return &agentcfg.ManifestProject{
		Id: p.GetId(), Ref: p.GetRef(), Paths: p.GetPaths(), DefaultNamespace: p.GetDefaultNamespace(),
	}
}
