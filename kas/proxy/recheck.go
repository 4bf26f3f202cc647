package proxy

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
)

// minRecheck is how often a long request is authorised anew at most.
const minRecheck = 10 * time.Second

// recheck authorises a request anew, time and again, until end is called, which waits for
// that; it ends a request whose client has lost access, or is somebody else to the cluster
// now. RoR being away ends nothing.
func (s *Server) recheck(ctx context.Context, cancel context.CancelCauseFunc, c credential, granted grant) (end func()) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := s.cfg.Clock.NewTicker(max(s.cfg.TTL, minRecheck))
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C():
			}
			if err := s.stillGood(ctx, c, granted); err != nil {
				cancel(err)
				return
			}
		}
	}()
	return func() {
		stop()
		<-ended
	}
}

func (s *Server) stillGood(ctx context.Context, c credential, granted grant) error {
	now, err := s.access.authorize(ctx, c)
	var why *refusal
	switch {
	case err == nil && !proto.Equal(now.impersonation, granted.impersonation):
		return forbid("as whom requests through agent %d are made has changed: ask again", c.agentID)
	case errors.As(err, &why) && why.denied:
		return err
	default:
		return nil
	}
}
