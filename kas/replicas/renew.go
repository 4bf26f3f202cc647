package replicas

import (
	"context"
	"slices"
	"strings"
	"time"
)

// leasesInCall bounds how many leases one call renews.
const leasesInCall = 200

// renew gives up, tries for, and renews leases.
func (s *session) renew(ctx context.Context) error {
	a := s.r.leases
	for {
		err := s.release(ctx, a.takeReleased(false))
		due, wait := a.next()
		for chunk := range slices.Chunk(due, leasesInCall) {
			if err == nil {
				err = s.ask(ctx, chunk)
			}
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is why
		}
		if err != nil {
			return err
		}
		if len(due) == 0 {
			s.pauseLeases(ctx, wait)
		}
	}
}

func (s *session) pauseLeases(ctx context.Context, wait time.Duration) {
	timer := s.r.leases.clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.r.leases.wake:
	case <-timer.C():
	}
}

// ask takes or renews leases.
func (s *session) ask(ctx context.Context, leases []*Lease) error {
	a := s.r.leases
	keys, args := make([]string, len(leases)), []string{millis(a.ttl)}
	for i, l := range leases {
		keys[i] = s.r.leaseKey(l.name)
		args = append(args, l.token)
	}
	sent := a.clock.Now()
	result, err := s.script(ctx, "lease", leaseScript, keys, args)
	if err != nil {
		return err
	}
	answers, err := result.AsIntSlice()
	if err != nil {
		return err //nolint:wrapcheck // it says what Redis answered
	}
	for i := range min(len(leases), len(answers)) {
		a.learn(leases[i], sent, time.Duration(answers[i])*time.Millisecond)
	}
	return nil
}

// release gives leases up and tells those who wait for them.
func (s *session) release(ctx context.Context, leases []*Lease) error {
	for chunk := range slices.Chunk(leases, leasesInCall) {
		keys, names, tokens := []string{}, []string{}, []string{}
		for _, l := range chunk {
			keys = append(keys, s.r.leaseKey(l.name))
			names = append(names, l.name)
			tokens = append(tokens, l.token)
		}
		args := append([]string{s.r.controlChannel(), s.r.control(leasesFree, strings.Join(names, "\n"))}, tokens...)
		if _, err := s.script(ctx, "release", releaseScript, keys, args); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replicas) leaseKey(name string) string { return r.key("lease:" + name) }
