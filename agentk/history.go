package agentk

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// maxDisconnections is how many are remembered.
const maxDisconnections = 10

// history remembers how connections to kas ended, for people who ask later.
type history struct {
	// since is when the connection began that there is; zero: there is none.
	since time.Time
	ended []*agentrpc.Disconnection // the newest last; not changed, only replaced
}

// up notes that there is a connection.
func (h *history) up(now time.Time) {
	h.since = now
	if n := len(h.ended); n > 0 {
		last := h.ended[n-1]
		h.ended[n-1] = &agentrpc.Disconnection{
			At: last.GetAt(), Lasted: last.GetLasted(), Reason: last.GetReason(), Away: durationpb.New(now.Sub(last.GetAt().AsTime())),
		}
	}
}

// down notes that there is none any more, and why.
func (h *history) down(now time.Time, why error) {
	if len(h.ended) == maxDisconnections {
		h.ended = slices.Delete(h.ended, 0, 1)
	}
	reason := refusal(why)
	if reason == "" {
		reason = report.Clip(grpctool.Words(why))
	}
	h.ended = append(h.ended, &agentrpc.Disconnection{At: timestamppb.New(now), Lasted: durationpb.New(now.Sub(h.since)), Reason: reason})
	h.since = time.Time{}
}

// tell fills in what an answer says of connections, the newest first.
func (h *history) tell(into *agentrpc.DiagnoseResponse) {
	if !h.since.IsZero() {
		into.ConnectedAt = timestamppb.New(h.since)
	}
	into.Disconnections = slices.Clone(h.ended)
	slices.Reverse(into.GetDisconnections())
}
