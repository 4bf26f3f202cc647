package push

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/tracing"
)

// story tells the log how each set fares with an agent: that it was sent, and once for
// each state that it came to, so that a chatty agent does not fill the log.
type story struct {
	log   *zap.Logger
	clock clock.PassiveClock
	// Whose set it is.
	agentID              int64
	agentName, projectID string

	mu         sync.Mutex
	commit     string
	detectedAt time.Time
	told       map[syncstatus.State]struct{}
	// traceparent that the agent was sent. Empty: the set is not traced. reports is how many
	// of them are spans.
	traceparent string
	reports     int
}

// logger is made when it is used: there are many streams, and it takes a kilobyte.
func (s *story) logger() *zap.Logger {
	return s.log.With(logging.AgentID(s.agentID), zap.String("agent", s.agentName), logging.Project(s.projectID))
}

// begin is called before a set is sent: the agent may speak of it before all is said.
func (s *story) begin(b *built, traceparent string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit, s.detectedAt, s.told = b.commitID, b.detectedAt, make(map[syncstatus.State]struct{})
	s.traceparent, s.reports = traceparent, 0
}

func (s *story) sent(b *built, fresh *delta) {
	s.logger().Info("Object set sent", logging.Commit(b.commitID), zap.Int("objects", len(b.set.Objects)),
		zap.Int("objects_sent", fresh.objects), zap.Int("bytes_sent", fresh.bytes),
		zap.Duration("since_detected", s.clock.Since(b.detectedAt)))
}

// traces says whether a report is to be a span: it is of the trace that the agent was told
// of, and not one of too many.
func (s *story) traces(traceparent string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reports == maxTraced || !tracing.SameTrace(s.traceparent, traceparent) {
		return false
	}
	s.reports++
	return true
}

func (s *story) reported(r *agentrpc.Report) {
	switch r.GetState() {
	case syncstatus.State_STATE_SYNCED, syncstatus.State_STATE_PARTIAL, syncstatus.State_STATE_FAILED, syncstatus.State_STATE_SUSPENDED:
	default:
		return // it goes on
	}
	s.mu.Lock()
	_, repeated := s.told[r.GetState()]
	news := !r.GetMore() && r.GetCommitId() != "" && r.GetCommitId() == s.commit && !repeated
	if news {
		s.told[r.GetState()] = struct{}{}
	}
	took := s.clock.Since(s.detectedAt)
	s.mu.Unlock()
	if !news {
		return
	}
	s.logger().Info("Agent says how the commit fares", logging.Commit(r.GetCommitId()), zap.Stringer("state", r.GetState()),
		zap.String("applied_commit", r.GetAppliedCommitId()), zap.String("message", r.GetMessage()), zap.Duration("since_detected", took))
}
