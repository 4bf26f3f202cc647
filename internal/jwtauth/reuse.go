package jwtauth

import (
	"crypto/subtle"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
)

// Signer makes tokens, one a second at the most: that is how finely they tell time. It is
// safe for concurrent use.
type Signer struct {
	secret           []byte
	issuer, audience string
	clock            clock.PassiveClock

	mu     sync.Mutex
	second int64
	newest string
}

// NewSigner returns a Signer of tokens from issuer to audience.
func NewSigner(secret []byte, issuer, audience string, c clock.PassiveClock) *Signer {
	return &Signer{secret: secret, issuer: issuer, audience: audience, clock: c}
}

// Token returns a token that is less than a second old.
func (s *Signer) Token() (string, error) {
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest != "" && now.Unix() == s.second {
		return s.newest, nil
	}
	token, err := Sign(s.secret, s.issuer, s.audience, now)
	if err == nil {
		s.newest, s.second = token, now.Unix()
	}
	return token, err
}

// vouchFor is how long a token that was good is good without being looked at again: it
// adds to the few seconds by which clocks may differ anyway.
const vouchFor = time.Second

// Verifier checks tokens, and one that comes again within a second only once: to check one
// costs as much as to answer some questions. It is safe for concurrent use.
type Verifier struct {
	secret           []byte
	issuer, audience string
	clock            clock.PassiveClock
	last             atomic.Pointer[vouched]
}

type vouched struct {
	token   string
	checked time.Time
}

// NewVerifier returns a Verifier of tokens from issuer to audience.
func NewVerifier(secret []byte, issuer, audience string, c clock.PassiveClock) *Verifier {
	return &Verifier{secret: secret, issuer: issuer, audience: audience, clock: c}
}

// Verify checks a token. Its errors wrap ErrUnauthorized.
func (v *Verifier) Verify(token string) error {
	now := v.clock.Now()
	if known := v.last.Load(); known != nil && now.Sub(known.checked).Abs() < vouchFor &&
		subtle.ConstantTimeCompare([]byte(known.token), []byte(token)) == 1 {
		return nil
	}
	if err := Verify(v.secret, token, v.issuer, v.audience, now); err != nil {
		return err
	}
	v.last.Store(&vouched{token: token, checked: now})
	return nil
}
