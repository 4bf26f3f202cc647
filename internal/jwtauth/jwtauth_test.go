package jwtauth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var (
	secret = []byte(strings.Repeat("s", 32))
	now    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

func TestVerify_AcceptsWhatSignMade(t *testing.T) {
	token, err := Sign(secret, IssuerKas, AudienceGitlab, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(secret, token, IssuerKas, AudienceGitlab, now.Add(Lifetime)); err != nil {
		t.Error(err)
	}
}

func TestVerify_Refuses(t *testing.T) {
	good, err := Sign(secret, IssuerKas, AudienceGitlab, now)
	if err != nil {
		t.Fatal(err)
	}
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.RegisteredClaims{
		Issuer: IssuerKas, Audience: jwt.ClaimStrings{AudienceGitlab}, ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour)),
	}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	endless, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Issuer: IssuerKas, Audience: jwt.ClaimStrings{AudienceGitlab},
	}).SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		token, issuer, audience string
		secret                  []byte
		at                      time.Time
	}{
		"another secret":                {good, IssuerKas, AudienceGitlab, []byte(strings.Repeat("x", 32)), now},
		"another issuer":                {good, IssuerGitlab, AudienceGitlab, secret, now},
		"another audience":              {good, IssuerKas, AudienceKas, secret, now},
		"a token that has expired":      {good, IssuerKas, AudienceGitlab, secret, now.Add(time.Minute)},
		"a token of the future":         {good, IssuerKas, AudienceGitlab, secret, now.Add(-time.Minute)},
		"a token without signature":     {unsigned, IssuerKas, AudienceGitlab, secret, now},
		"a token that never expires":    {endless, IssuerKas, AudienceGitlab, secret, now},
		"something that is not a token": {"x.y", IssuerKas, AudienceGitlab, secret, now},
		"nothing":                       {"", IssuerKas, AudienceGitlab, secret, now},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Verify(row.secret, row.token, row.issuer, row.audience, row.at); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("got %v, want ErrUnauthorized", err)
			}
		})
	}
}

func TestLoadSecret(t *testing.T) {
	write := func(t *testing.T, content string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("white space around is dropped", func(t *testing.T) {
		got, err := LoadSecret(write(t, " "+base64.StdEncoding.EncodeToString(secret)+"\n"))
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("got %q, %v", got, err)
		}
	})
	for name, row := range map[string]struct{ content, want string }{
		"a short secret says how to make one": {base64.StdEncoding.EncodeToString([]byte("short")), "openssl rand -base64 32"},
		"text that is not base64":             {"%%%", "not base64"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := LoadSecret(write(t, row.content)); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want an error with %q", err, row.want)
			}
		})
	}
	t.Run("a missing file", func(t *testing.T) {
		if _, err := LoadSecret(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}
