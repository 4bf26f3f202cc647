package push

import (
	"context"
	"time"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
)

// Access says who an agent is and what it may read. Its errors carry a gRPC status
// (status.FromError), which ends the stream when it is UNAUTHENTICATED,
// PERMISSION_DENIED or NOT_FOUND. Anything else is trouble that may pass: it ends a
// stream that is just opening, with UNAVAILABLE, and leaves others open. Answers
// may come from a cache: push asks when a stream opens, and again every
// Config.RecheckPeriod and when Rechecked says so.
type Access interface {
	// Agent returns who bears the token.
	Agent(ctx context.Context, token string) (gitlabapi.AgentInfo, error)
	// Project returns where a project lives: id is its full path or its number.
	// NOT_FOUND: there is no such project, or the agent may not read it.
	Project(ctx context.Context, token, id string) (gitlabapi.ProjectInfo, error)
	// Rechecked returns a channel that is closed when there is reason to ask again about
	// an agent.
	Rechecked(agentID int64) <-chan struct{}
}

// Source follows refs and reads files. kas/gitaly says what each method does; its
// Refs and Content together are one.
type Source interface {
	Follow(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref, period time.Duration,
		notify func(gitrepo.Revision)) (stop func())
	Lookup(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref) (gitrepo.Revision, error)
	Poke(match func(gitlabapi.GitalyRepository) bool, traceparent string)
	Files(ctx context.Context, repo gitrepo.Repository, commitID string) ([]gitrepo.File, error)
	Blobs(ctx context.Context, repo gitrepo.Repository, oids []string, maxSize int64,
		yield func(oid string, data []byte, size int64) error) error
}

// Status is told how projects fare. projectID is the project as the agent's
// configuration names it. Methods must not block for long; they may be called by
// many goroutines at once, but for one stream in the order in which things happen.
type Status interface {
	// Connected says that a stream is open. A reconnecting agent may for a moment
	// have two, so count them.
	Connected(agent gitlabapi.AgentInfo, projectID string)
	// Disconnected says that a stream has ended: one call for each Connected.
	Disconnected(agent gitlabapi.AgentInfo, projectID string)
	// Source says what was found in Git. It may also come without a stream, when
	// the agent may not read the project. These fields of update are set, in place
	// of those of the update before; all others are the agent's to report:
	//
	//	project_path
	//	ref               "branch main"
	//	wanted_commit     empty where it is not known
	//	times.detected_at when the ref was seen at wanted_commit
	//	times.sent_at     unset until the whole set was handed to the stream
	//	errors            mistakes in the files of wanted_commit
	//	message           what is wrong, or worth knowing, and what to do; or empty
	//	state             STATE_FAILED where nothing can be read from Git at
	//	                  present (message says why; the agent keeps what it
	//	                  holds), else unset
	//
	// update is the callee's to keep and change.
	Source(agent gitlabapi.AgentInfo, projectID string, update *syncstatus.ProjectStatus)
	// Report hands on what the agent says: checked for sense, not merged. It is
	// the callee's to keep.
	Report(agent gitlabapi.AgentInfo, projectID string, report *agentrpc.Report)
}
