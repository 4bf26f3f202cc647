package state

import (
	"context"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/retry"
)

// Numbers of fields of clusterstate.WatchRequest and ListRequest.
const (
	requestQuery  protowire.Number = 1
	requestCursor protowire.Number = 2 // of WatchRequest
	requestLimit  protowire.Number = 2 // of ListRequest
)

// errEnded is for an agent that ends a watch without a reason: it stops, probably.
var errEnded = status.Error(codes.Unavailable, "the agent ended the watch")

// read keeps a shared watch up to date until ctx ends or it cannot go on.
func (s *Server) read(ctx context.Context, key groupKey, sh *shared) error {
	return s.follow(ctx, key, sh.newest, sh.apply)
}

// follow reads a watch of an agent and calls take with its messages. When it breaks it is
// opened again, at the newest cursor. It returns ctx's error, take's, or one with a gRPC
// status: if the watch could not be opened at all, if the agent refuses it, or if the
// agent has been away for too long.
func (s *Server) follow(ctx context.Context, key groupKey, newest func() string, take func(*message) error) error {
	heard := false     // of the agent
	var lost time.Time // since when nothing is heard; zero: the watch is open
	try := func(ctx context.Context) error {
		var refused error
		err := s.readOnce(ctx, key, newest(), func(m *message) error {
			heard, lost = true, time.Time{}
			refused = take(m)
			return refused
		})
		if lost.IsZero() {
			lost = s.config.Clock.Now()
		}
		switch {
		case refused != nil:
			return retry.Permanent(refused)
		case !heard, !passing(err), s.config.Clock.Since(lost) > s.config.Patience:
			return retry.Permanent(failure(key.agentID, err))
		}
		return err
	}
	return retry.Do(ctx, s.config.Reopen, try, func(err error, wait time.Duration) {
		s.metrics.reopened.Inc()
		s.log.Debug("A watch of an agent broke and is opened again",
			logging.AgentID(key.agentID), zap.Error(err), zap.Duration("in", wait))
	})
}

// passing tells trouble that a new watch may not have.
func passing(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Aborted, codes.Canceled:
		return true
	default:
		return false
	}
}

// readOnce reads one watch of an agent until it ends, which is an error in any case.
func (s *Server) readOnce(ctx context.Context, key groupKey, cursor string, take func(*message) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := appendBytes(nil, requestQuery, []byte(key.query))
	if cursor != "" {
		request = appendBytes(request, requestCursor, []byte(cursor))
	}
	stream, err := s.open(ctx, key.agentID, watchDesc, agentrpc.ClusterQuery_Watch_FullMethodName, request)
	if err != nil {
		return err
	}
	for {
		raw := &grpctool.Raw{}
		if err := stream.RecvMsg(raw); errors.Is(err, io.EOF) {
			return errEnded
		} else if err != nil {
			return err //nolint:wrapcheck // it is a status, which the caller looks at
		}
		m, err := parse(raw.Data)
		if err != nil {
			return senseless(err)
		}
		if err := take(&m); err != nil {
			return err
		}
	}
}

const (
	// sourceAge is how old a source may be that a newcomer is told.
	sourceAge = 5 * time.Second
	// sourceTime is how long a newcomer waits for a newer one.
	sourceTime = 2 * time.Second
)

// errEnough ends a call early.
var errEnough = errors.New("enough")

// freshen has a shared watch know how fresh it is: agents tell that at the beginning of a
// watch only. Where the agent does not answer, the newcomer is told what was so last.
func (s *Server) freshen(ctx context.Context, key groupKey, sh *shared) {
	select {
	case sh.freshening <- struct{}{}:
		defer func() { <-sh.freshening }()
	case <-ctx.Done():
		return
	}
	if at, live := sh.freshness(); !live || s.config.Clock.Since(at) < sourceAge {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sourceTime)
	defer cancel()
	request := appendBytes(nil, requestQuery, []byte(key.query))
	request = protowire.AppendTag(request, requestLimit, protowire.VarintType)
	request = protowire.AppendVarint(request, 1)
	var source []byte
	err := s.list(ctx, key.agentID, request, func(part []byte) error {
		fields := scanner{rest: part}
		for fields.next() {
			if fields.is(listSource, protowire.BytesType) {
				source = fields.bytes
			}
		}
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		s.log.Debug("An agent did not say how fresh its answer is", logging.AgentID(key.agentID), zap.Error(err))
	}
	sh.freshen(source)
}
