package kas

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/kas/proxy"
)

func TestWhereabouts(t *testing.T) {
	began := time.Unix(1_000_000, 0)
	for name, row := range map[string]struct {
		// after is how long kas has been running.
		after    time.Duration
		services []string
		listed   bool
		// departed is how long ago it was; zero: it was never here.
		departed time.Duration
		// alone: there is no other kas. urls and err are what is known of others.
		alone bool
		urls  []string
		err   error
		// seenBefore is how long ago it was found elsewhere; zero: never.
		seenBefore time.Duration
		want       proxy.Standing
	}{
		"it has streams of the tunnel here":             {after: time.Hour, services: []string{"s"}, err: errors.New("not asked"), want: proxy.Connected},
		"it is connected here, and opens streams":       {after: time.Hour, listed: true, want: proxy.Connected},
		"it is elsewhere":                               {after: time.Hour, urls: []string{"grpc://h:1"}, want: proxy.Connected},
		"it never was anywhere":                         {after: time.Hour, want: proxy.Absent},
		"it never was anywhere, and there is but here":  {after: time.Hour, alone: true, want: proxy.Absent},
		"it may have been somewhere before kas started": {after: lately - time.Second, want: proxy.Expected},
		"it has left a moment ago":                      {after: time.Hour, departed: time.Second, want: proxy.Expected},
		"it has left for good":                          {after: time.Hour, departed: lately, want: proxy.Absent},
		"it was elsewhere a moment ago":                 {after: time.Hour, seenBefore: time.Second, want: proxy.Expected},
		"it was elsewhere once":                         {after: time.Hour, seenBefore: lately, want: proxy.Absent},
		"the others cannot be asked":                    {after: time.Hour, err: errors.New("Redis is away"), want: proxy.Expected},
	} {
		t.Run(name, func(t *testing.T) {
			clk := clocktesting.NewFakePassiveClock(began.Add(row.after))
			urls, err := row.urls, row.err
			w := &whereabouts{
				clock: clk, began: began, seen: make(map[int64]time.Time),
				services: func(int64) []string { return row.services },
				connected: func(ids []int64, _ *int64) []*railsrpc.ConnectedAgent {
					if len(ids) != 1 || ids[0] != 7 || !row.listed {
						return nil
					}
					return []*railsrpc.ConnectedAgent{{AgentId: 7}}
				},
				departed: func(int64) []*agentrpc.Disconnection {
					if row.departed == 0 {
						return nil
					}
					return []*agentrpc.Disconnection{{At: timestamppb.New(clk.Now().Add(-row.departed))}, {At: timestamppb.New(began)}}
				},
			}
			if !row.alone {
				w.where = func(context.Context, int64) ([]string, <-chan struct{}, error) { return urls, nil, err }
			}
			if row.seenBefore > 0 {
				urls = []string{"grpc://h:1"}
				w.Of(t.Context(), 7)
				urls = nil
				clk.SetTime(clk.Now().Add(row.seenBefore))
			}
			if got := w.Of(t.Context(), 7); got != row.want {
				t.Errorf("it is %v, want %v", got, row.want)
			}
		})
	}
}
