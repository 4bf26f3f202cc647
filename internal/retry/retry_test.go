package retry

import (
	"context"
	"errors"
	"testing"
	"time"
)

var quick = Policy{Initial: time.Microsecond, Max: time.Millisecond}

func TestDo_TriesUntilItSucceeds(t *testing.T) {
	failure := errors.New("not yet")
	var tries int
	var told []error
	err := Do(t.Context(), quick, func(context.Context) error {
		if tries++; tries < 4 {
			return failure
		}
		return nil
	}, func(err error, _ time.Duration) { told = append(told, err) })
	if err != nil || tries != 4 || len(told) != 3 || !errors.Is(told[0], failure) {
		t.Errorf("err %v, %d tries, told %v", err, tries, told)
	}
}

func TestDo_StopsAtAPermanentError(t *testing.T) {
	failure := errors.New("never")
	var tries int
	err := Do(t.Context(), quick, func(context.Context) error {
		tries++
		return Permanent(failure)
	}, nil)
	if !errors.Is(err, failure) || tries != 1 {
		t.Errorf("err %v, %d tries", err, tries)
	}
}

func TestDo_StopsWhenTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Do(ctx, Policy{Initial: time.Hour, Max: time.Hour}, func(context.Context) error {
		return errors.New("again")
	}, func(error, time.Duration) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestDo_StartsOverAfterATryThatLasted(t *testing.T) {
	var waits []time.Duration
	tries := 0
	p := Policy{Initial: time.Microsecond, Max: time.Hour, ResetAfter: time.Nanosecond}
	err := Do(t.Context(), p, func(context.Context) error {
		if tries++; tries > 20 {
			return nil
		}
		return errors.New("lasted, then broke")
	}, func(_ error, wait time.Duration) { waits = append(waits, wait) })
	if err != nil {
		t.Fatal(err)
	}
	for _, wait := range waits {
		if wait > 10*time.Microsecond {
			t.Fatalf("a wait of %s: the backoff was not reset", wait)
		}
	}
}
