package gitops

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	testclock "k8s.io/utils/clock/testing"
)

func TestLimit_HalvesOnceForAllThatWereInFlightTogether(t *testing.T) {
	clk := testclock.NewFakePassiveClock(time.Now())
	l := NewLimit(48)
	for range 48 {
		l.throttled(clk.Now(), 0, time.Second)
	}
	ok, _, _ := l.room(clk.Now(), 23)
	require.True(t, ok)
	ok, wait, _ := l.room(clk.Now(), 24)
	require.False(t, ok)
	require.Zero(t, wait, "only an answer makes room")

	l.throttled(clk.Now(), l.epoch, time.Second)
	ok, _, _ = l.room(clk.Now(), 12)
	require.False(t, ok)
}

func TestLimit_GrowsByAboutOneForEachRound(t *testing.T) {
	l := NewLimit(48)
	l.throttled(time.Now(), 0, 0)
	require.InDelta(t, 24, l.current, 0)
	for range 24 {
		l.answered()
	}
	require.InDelta(t, 25, l.current, 0.1)
	for range 10_000 {
		l.answered()
	}
	require.InDelta(t, 48, l.current, 0, "and never beyond where it began")
}

func TestLimit_RestsWhereEvenOneIsTooMany(t *testing.T) {
	clk := testclock.NewFakePassiveClock(time.Now())
	l := NewLimit(2)
	l.throttled(clk.Now(), 0, 3*time.Second)
	ok, _, _ := l.room(clk.Now(), 0)
	require.True(t, ok, "one at a time is tried first")

	l.throttled(clk.Now(), 1, 3*time.Second)
	ok, wait, _ := l.room(clk.Now(), 0)
	require.False(t, ok)
	require.Equal(t, 3*time.Second, wait)

	clk.SetTime(clk.Now().Add(3 * time.Second))
	ok, _, _ = l.room(clk.Now(), 0)
	require.True(t, ok)

	l.throttled(clk.Now(), 2, 0)
	_, wait, _ = l.room(clk.Now(), 0)
	require.Equal(t, restFor, wait, "where the API server does not say")
}

func TestLimit_IsSharedByRuns(t *testing.T) {
	l := NewLimit(8)
	l.throttled(time.Now(), 0, 0)
	ok, _, epoch := l.room(time.Now(), 3)
	require.True(t, ok, "each run counts its own requests")
	require.Equal(t, 1, epoch)
	ok, _, _ = l.room(time.Now(), 4)
	require.False(t, ok, "and all send fewer")
	l.throttled(time.Now(), 0, 0)
	require.InDelta(t, 4, l.current, 0, "what another run sent before is no news")
}
