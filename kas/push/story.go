package push

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/logging"
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
}

// logger is made when it is used: there are many streams, and it takes a kilobyte.
func (s *story) logger() *zap.Logger {
	return s.log.With(logging.AgentID(s.agentID), zap.String("agent", s.agentName), logging.Project(s.projectID))
}

// begin is called before a set is sent: the agent may speak of it before all is said.
func (s *story) begin(b *built) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit, s.detectedAt, s.told = b.commitID, b.detectedAt, make(map[syncstatus.State]struct{})
}

func (s *story) sent(b *built, fresh *delta) {
	s.logger().Info("Object set sent", logging.Commit(b.commitID), zap.Int("objects", len(b.set.Objects)),
		zap.Int("objects_sent", fresh.objects), zap.Int("bytes_sent", fresh.bytes),
		zap.Duration("since_detected", s.clock.Since(b.detectedAt)))
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
