// Package stream answers HTTP requests piece by piece, for as long as somebody listens.
//
// In go pieces, each written whole, sent at once, and given up on when the client does
// not take it in time. When nothing was sent for a while a beat is, so that nobody in
// between takes the connection for dead and a client that has left is noticed. A stream
// ends after a while by itself, so that whoever comes again is asked again who it is.
//
// Nothing is queued: a slow client holds up whoever produces the pieces. Serve owns the
// goroutines that it starts and returns when they have ended.
package stream

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"
)

const (
	// Life of a stream.
	Life = 10 * time.Minute
	// beatInterval is how long nothing may be sent.
	beatInterval = 20 * time.Second
	// writeTimeout is how long a client may take to take a piece.
	writeTimeout = 30 * time.Second
)

// Config is how to stream.
type Config struct {
	ContentType string
	// Beat is sent when there is nothing else to send; clients leave it out.
	Beat []byte
	// Clock says when it is time for a beat. Default: the real one.
	Clock clock.WithTicker
	// Life of the stream. Default: Life.
	Life time.Duration
}

// errGone marks what a client that has left causes.
var errGone = errors.New("the client is gone")

// stream is one answer.
type stream struct {
	cfg     Config
	w       http.ResponseWriter
	control *http.ResponseController

	mu    sync.Mutex
	begun bool
	// idle: nothing was sent since the last tick.
	idle bool
}

// Serve has produce send pieces until it returns, its context ends with the client's
// leaving or the end of the stream's life, or sending fails. It returns whether anything
// was sent, and the error of produce unless its context had ended.
func Serve(w http.ResponseWriter, r *http.Request, cfg Config, produce func(ctx context.Context, send func([]byte) error) error) (begun bool, err error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Life == 0 {
		cfg.Life = Life
	}
	life, cancel := context.WithTimeout(r.Context(), cfg.Life)
	defer cancel()
	s := &stream{cfg: cfg, w: w, control: http.NewResponseController(w)}
	g, ctx := errgroup.WithContext(life)
	beating, still := context.WithCancel(ctx)
	defer still()
	g.Go(func() error {
		defer still()
		return produce(ctx, s.send)
	})
	g.Go(func() error { return s.beat(beating) })
	err = g.Wait()
	if life.Err() != nil || errors.Is(err, errGone) {
		err = nil
	}
	return s.begun, err
}

// send sends a piece. Errors are errGone.
func (s *stream) send(piece []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(piece)
}

func (s *stream) write(piece []byte) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return errors.Join(errGone, err)
	}
	if !s.begun {
		s.begun = true
		h := s.w.Header()
		h.Set("Content-Type", s.cfg.ContentType)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Accel-Buffering", "no") // nginx would keep it back
		s.w.WriteHeader(http.StatusOK)
	}
	s.idle = false
	if _, err := s.w.Write(piece); err != nil {
		return errors.Join(errGone, err)
	}
	if err := s.control.Flush(); err != nil {
		return errors.Join(errGone, err)
	}
	return nil
}

// beat sends beats until ctx ends, none before the first piece: that may turn out to be
// an error.
func (s *stream) beat(ctx context.Context) error {
	ticker := s.cfg.Clock.NewTicker(beatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		if err := s.beatOnce(); err != nil {
			return err
		}
	}
}

func (s *stream) beatOnce() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun && s.idle {
		if err := s.write(s.cfg.Beat); err != nil {
			return err
		}
	}
	s.idle = true
	return nil
}
