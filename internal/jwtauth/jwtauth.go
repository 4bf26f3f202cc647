// Package jwtauth makes and checks the tokens by which kas and RoR know each
// other: HS256, a shared secret, and a few seconds of life. GitLab fixed the
// format; both directions differ only in issuer and audience.
package jwtauth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// IssuerKas and AudienceGitlab mark what kas sends to RoR; IssuerGitlab and
// AudienceKas mark what RoR sends to kas.
const (
	IssuerKas      = "gitlab-kas"
	AudienceGitlab = "gitlab"
	IssuerGitlab   = "gitlab"
	AudienceKas    = "gitlab-kas"
)

// Lifetime of a token that Sign makes (GitLab's number).
const Lifetime = 5 * time.Second

const (
	// leeway is how far two clocks may be apart.
	leeway = 5 * time.Second
	// minSecret is the fewest bytes a secret may have (GitLab's number).
	minSecret = 32
)

// ErrUnauthorized is wrapped by every error of Verify.
var ErrUnauthorized = errors.New("unauthorized")

// LoadSecret reads a file that holds the base64 of a secret of at least 32 bytes.
func LoadSecret(path string) ([]byte, error) {
	encoded, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	secret, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(encoded)))
	if err != nil {
		return nil, fmt.Errorf("secret file %s: not base64: %w", path, err)
	}
	if len(secret) < minSecret {
		return nil, fmt.Errorf("secret file %s: %d bytes, want at least %d: make one with \"openssl rand -base64 32\"", path, len(secret), minSecret)
	}
	return secret, nil
}

// Sign makes a token that is valid from a moment before now until Lifetime after.
func Sign(secret []byte, issuer, audience string, now time.Time) (string, error) {
	claims := jwt.RegisteredClaims{
		Issuer:    issuer,
		Audience:  jwt.ClaimStrings{audience},
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now.Add(-leeway)),
		ExpiresAt: jwt.NewNumericDate(now.Add(Lifetime)),
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// Verify checks a token's signature, algorithm, issuer, audience and times.
func Verify(secret []byte, token, issuer, audience string, now time.Time) error {
	_, err := jwt.ParseWithClaims(token, &jwt.RegisteredClaims{},
		func(*jwt.Token) (any, error) { return secret, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(leeway),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	return nil
}
