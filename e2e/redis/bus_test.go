package redis

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
)

func TestBus_TellsTheOthersWhoListen(t *testing.T) {
	t.Parallel()
	all := several(t, start(t), "grpc://a:1", "grpc://b:1", "grpc://c:1")
	var own, b, c, other ear
	all[0].Hear("pushes", own.hear)
	all[1].Hear("pushes", b.hear)
	all[2].Hear("pushes", c.hear)
	all[2].Hear("tokens", other.hear)
	for _, e := range []*ear{&own, &b, &c, &other} {
		e.has(t, "-") // from here on
	}
	for i := range 100 {
		all[0].Tell("pushes", fmt.Append(nil, i))
	}
	all[0].Tell("tokens", []byte("42"))
	want := "-"
	for i := range 100 {
		want += fmt.Sprint(" ", i)
	}
	b.has(t, want)
	c.has(t, want)
	other.has(t, "- 42")
	require.Equal(t, "-", own.all(), "who tells does not hear it")
}

func TestBus_StopsHearing(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1", "grpc://b:1")
	var first, second, last ear
	stop := all[1].Hear("topic", first.hear)
	stopSecond := all[1].Hear("topic", second.hear)
	all[1].Hear("last", last.hear)
	second.has(t, "-")
	stop()
	last.has(t, "-")
	all[0].Tell("topic", []byte("for the second"))
	all[0].Tell("last", []byte("done"))
	last.has(t, "- done")
	require.Equal(t, "- for the second", second.all())
	require.Equal(t, "-", first.all())
	stopSecond()
	c := reach(t, redis)
	testkit.Eventually(t, func() error {
		channels, err := c.Do(t.Context(), c.B().PubsubChannels().Build()).AsStrSlice()
		if err != nil || strings.Contains(fmt.Sprint(channels), "topic") {
			return fmt.Errorf("subscribed to %v, %w", channels, err)
		}
		return nil
	})
	var again ear
	all[1].Hear("topic", again.hear)
	again.has(t, "-")
	all[0].Tell("topic", []byte("again"))
	again.has(t, "- again")
}

func TestBus_SaysThatSomethingWasMissed(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1", "grpc://b:1")
	held, released := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	var e ear
	first := true
	all[1].Hear("topic", func(message []byte) {
		if first {
			first = false
			close(held)
			<-released // it waits, which it must not
		}
		e.hear(message[:min(len(message), 3)])
	})
	<-held
	for i := range 32 { // more than there is room for
		all[0].Tell("topic", append(fmt.Appendf(nil, "%03d", i), make([]byte, 1<<20-3)...))
		told := float64(i + 1)
		testkit.Eventually(t, func() error {
			if got := counted(t, all[0], "out", "ok"); got != told {
				return fmt.Errorf("told %v", got)
			}
			return nil
		})
	}
	testkit.Eventually(t, func() error {
		if counted(t, all[1], "in", "lost") == 0 {
			return fmt.Errorf("nothing was lost")
		}
		return nil
	})
	release()
	testkit.Eventually(t, func() error {
		if got := e.all(); !strings.HasPrefix(got, "- 000 001 002") || strings.Count(got, "-") != 2 {
			return fmt.Errorf("heard %s", got)
		}
		return nil
	})
}

// counted is messages by direction and result.
func counted(t *testing.T, p *replica, direction, result string) float64 {
	t.Helper()
	families, err := p.metrics.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "kas_replicas_messages_total" && m.GetLabel()[0].GetValue() == direction && m.GetLabel()[1].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
