package jwtauth

import (
	"errors"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func TestSigner_MakesOneTokenASecondAndVerifierTakesThem(t *testing.T) {
	c := clocktesting.NewFakeClock(now)
	signer := NewSigner(secret, IssuerKas, AudienceKas, c)
	verifier := NewVerifier(secret, IssuerKas, AudienceKas, c)
	sign := func() string {
		t.Helper()
		token, err := signer.Token()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	first := sign()
	for range 2 { // the second time it is known
		if err := verifier.Verify(first); err != nil {
			t.Error(err)
		}
	}
	c.Step(time.Second / 2)
	if sign() != first {
		t.Error("a token was made anew within a second")
	}
	c.Step(time.Second)
	if sign() == first {
		t.Error("a token is more than a second old")
	}
	c.Step(time.Minute)
	if err := verifier.Verify(first); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a token that was good once is good for ever: %v", err)
	}
	if err := verifier.Verify("x"); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
}
