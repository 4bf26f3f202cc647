package registry

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Prefixes by which people and secret scanners know GitLab's tokens.
const (
	prefixPersonal = "glpat-"
	prefixAgent    = "glagent-"
	prefixJob      = "glcbt-"
)

// hashToken is how a random token is stored: it has far too many bits to guess, so
// one round without salt does.
func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// newToken makes a token of 260 random bits.
func newToken(prefix string) string { return prefix + rand.Text() + rand.Text() }

// derive makes a second secret from a first, from which the first cannot be found.
func derive(secret, purpose string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(purpose))
	return hex.EncodeToString(mac.Sum(nil))
}

const (
	// passwordTTL is how long a password that was found right is remembered (as a
	// keyed hash): git sends it with each of a push's requests, and bcrypt is slow
	// on purpose.
	passwordTTL = 5 * time.Minute
	// passwordsRemembered bounds that memory.
	passwordsRemembered = 1024
	// passwordsAtOnce bounds the processors that guessing passwords can occupy.
	passwordsAtOnce = 2
	// maxPassword is where bcrypt ends, in bytes.
	maxPassword = 72
)

// passwords checks passwords against their bcrypt hashes.
type passwords struct {
	cost  int
	decoy []byte // is compared where there is no such user, so that both take as long
	slots chan struct{}

	mu    sync.Mutex
	key   [32]byte
	known map[[32]byte]time.Time // until when
}

func (p *passwords) init(cost int, random io.Reader) error {
	p.cost = cost
	p.slots = make(chan struct{}, passwordsAtOnce)
	p.known = make(map[[32]byte]time.Time)
	if _, err := io.ReadFull(random, p.key[:]); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	decoy, err := p.hash(rand.Text())
	p.decoy = decoy
	return err
}

func (p *passwords) hash(password string) ([]byte, error) {
	switch {
	case len(password) < 8:
		return nil, &InvalidError{"password", "is too short (minimum is 8 characters)"}
	case len(password) > maxPassword:
		return nil, &InvalidError{"password", fmt.Sprintf("is too long (maximum is %d bytes)", maxPassword)}
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), p.cost)
	if err != nil {
		return nil, fmt.Errorf("hash password: %w", err)
	}
	return hash, nil
}

// check returns ErrUnauthorized when the password is not the one that was hashed. A
// nil hash stands for a user that is not there.
func (p *passwords) check(ctx context.Context, hash []byte, password string, now time.Time) error {
	exists := hash != nil
	if !exists {
		hash = p.decoy
	}
	mac := hmac.New(sha256.New, p.key[:])
	mac.Write(hash)
	mac.Write([]byte(password))
	key := [32]byte(mac.Sum(nil))
	if p.remembers(key, now) {
		return nil
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("check password: %w", ctx.Err())
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	switch {
	case errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) || errors.Is(err, bcrypt.ErrPasswordTooLong) || !exists:
		return ErrUnauthorized
	case err != nil:
		return fmt.Errorf("check password: %w", err)
	}
	p.remember(key, now)
	return nil
}

func (p *passwords) remembers(key [32]byte, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.known[key]
	return ok && now.Before(until)
}

func (p *passwords) remember(key [32]byte, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= passwordsRemembered {
		clear(p.known)
	}
	p.known[key] = now.Add(passwordTTL)
}
