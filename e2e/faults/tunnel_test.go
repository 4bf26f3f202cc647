package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/process"
)

// foundWithin is how soon a connection that is dead without a word must be found out.
const foundWithin = 60 * time.Second

// maps is a query for the ConfigMaps of the fixture's namespace.
func maps(f *harness.Fixture) *clusterstate.Query {
	return &clusterstate.Query{Resource: &clusterstate.Resource{Resource: "configmaps"}, Namespace: f.Name}
}

// put makes a ConfigMap or sets its value.
func put(f *harness.Fixture, name, value string) {
	f.T.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"key": value}}
	client := f.Kube.CoreV1().ConfigMaps(f.Name)
	if _, err := client.Create(f.T.Context(), cm, metav1.CreateOptions{}); err == nil {
		return
	}
	if _, err := client.Update(f.T.Context(), cm, metav1.UpdateOptions{}); err != nil {
		f.T.Fatal(err)
	}
}

// get asks for a ConfigMap's metadata.
func get(ctx context.Context, state *harness.ClusterState, f *harness.Fixture, name string) error {
	_, err := state.Client.Get(ctx, &railsrpc.ClusterGetRequest{AgentId: state.AgentID, Request: &clusterstate.GetRequest{
		Resource: &clusterstate.Resource{Resource: "configmaps"}, Namespace: f.Name, Name: name, Shape: clusterstate.Shape_SHAPE_METADATA,
	}})
	return err
}

// getWithin is get with a deadline.
func getWithin(f *harness.Fixture, state *harness.ClusterState, name string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(f.T.Context(), timeout)
	defer cancel()
	return get(ctx, state, f, name)
}

// catchUp waits until the watch's copy is what the API server has.
func catchUp(f *harness.Fixture, w *harness.Watch) {
	f.T.Helper()
	list, err := f.Kube.CoreV1().ConfigMaps(f.Name).List(f.T.Context(), metav1.ListOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	want := map[string]string{}
	for i := range list.Items {
		want[f.Name+"/"+list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	w.Wait(func() error {
		if diff := cmp.Diff(want, w.Versions()); diff != "" {
			return fmt.Errorf("the copy differs (-API server +watch):\n%s", diff)
		}
		return nil
	})
}

// resume goes on with a watch that was cut off, trying again while kas is not there.
func resume(f *harness.Fixture, state *harness.ClusterState, w *harness.Watch) *harness.Watch {
	f.T.Helper()
	f.Eventually(func() error {
		w = state.Resume(w)
		next := w
		f.Eventually(func() error {
			if len(next.Told()) == 0 && next.Ended() == nil {
				return errors.New("neither told anything nor ended")
			}
			return nil
		})
		if err := w.Ended(); err != nil && status.Code(err) != codes.Unavailable {
			f.T.Fatal(err)
		}
		return w.Ended()
	})
	return w
}

func TestTunnel_KilledInMidCallAndMidWatch(t *testing.T) {
	for name, victim := range map[string]func(*harness.Fixture) *process.Process{
		"kas":    func(f *harness.Fixture) *process.Process { return f.Stack.Kas },
		"agentk": func(f *harness.Fixture) *process.Process { return f.Agentk.Process },
	} {
		t.Run(name, func(t *testing.T) {
			f := env.New(t)
			put(f, "a", "1")
			state := f.ClusterState()
			watch := state.Watch(maps(f))
			watch.WaitTold(harness.ToldSynced)

			// What is asked while agentk hangs is under way for sure.
			goOn := f.Pause(f.Agentk.Process)
			answered := make(chan error, 1)
			ctx, cancel := context.WithTimeout(t.Context(), foundWithin)
			defer cancel()
			go func() { answered <- get(ctx, state, f, "a") }()
			busy(f)
			put(f, "b", "1")
			begun := time.Now()
			victim(f).Kill()
			if err := <-answered; status.Code(err) != codes.Unavailable {
				t.Errorf("the call under way ended with %v", err)
			}
			if took := time.Since(begun); took > foundWithin/2 { // who is not told waits for all of it
				t.Errorf("whoever asked waited for %s", took)
			}
			goOn()
			f.Start(victim(f))
			put(f, "a", "2")
			if name == "kas" {
				if code := watch.WaitEnded(); code != codes.Unavailable {
					t.Errorf("the watch ended with %v", watch.Ended())
				}
				watch = resume(f, state, watch)
			}
			catchUp(f, watch)
			if resets := watch.Times(harness.ToldReset); name == "kas" && resets != 0 {
				t.Errorf("begun anew though agentk knows what came after: %v", watch.Told())
			}
			f.Eventually(func() error { return getWithin(f, state, "b", 5*time.Second) })
			if err := contains(f.Agentk.LogTail(), "panic"); err == nil {
				t.Error("agentk has panicked")
			}
		})
	}
}

// busy waits until kas has an RPC under way other than the watch.
func busy(f *harness.Fixture) {
	f.T.Helper()
	f.Eventually(func() error {
		if n := f.Metrics(f.Stack.KasMetricsURL).Sum("kas_tunnel_streams", `state="busy"`); n < 2 {
			return fmt.Errorf("%v streams are busy", n)
		}
		return nil
	})
}

// relayed is a fixture whose agentk reaches kas through a network that can be broken.
func relayed(t *testing.T) (*harness.Fixture, *harness.Relay) {
	t.Helper()
	f := env.NewStopped(t)
	relay := f.NewRelay(f.Stack.KasAgentAddress)
	f.Agentk = f.NewAgentkOf(relay.Address, "agentk")
	f.Start(f.Agentk)
	put(f, "a", "1")
	state := f.ClusterState()
	f.Eventually(func() error { return getWithin(f, state, "a", 5*time.Second) })
	return f, relay
}

// connected is an error unless agentk says that it has kas, or that it has not.
func connected(f *harness.Fixture, want float64) error {
	if n := f.Metrics(f.Agentk.MetricsURL).Sum("agentk_kas_connected"); n != want {
		return fmt.Errorf("agentk_kas_connected is %v", n)
	}
	return nil
}

// TestTunnel_BlackHole takes as long as both ends need to find out.
func TestTunnel_BlackHole(t *testing.T) {
	t.Parallel()
	f, relay := relayed(t)
	state := f.ClusterState()
	watch := state.Watch(maps(f))
	watch.WaitTold(harness.ToldSynced)
	begun := time.Now()
	end := relay.BlackHole()
	err := getWithin(f, state, "a", 2*foundWithin)
	found := time.Since(begun)
	t.Logf("kas found out after %s and said: %v", found, err)
	if status.Code(err) != codes.Unavailable || found > foundWithin {
		t.Errorf("after %s the call under way ended with %v", found, err)
	}
	f.Eventually(func() error { return connected(f, 0) })
	if took := time.Since(begun); took > foundWithin {
		t.Errorf("agentk found out after %s", took)
	}
	put(f, "a", "2")
	put(f, "b", "1")
	end()
	f.Eventually(func() error { return getWithin(f, state, "b", 5*time.Second) })
	t.Logf("all is well again %s after the black hole opened", time.Since(begun))
	catchUp(f, watch)
	if n := watch.Times(harness.ToldReset); n != 1 {
		t.Errorf("the watch began anew %d times: %v", n, watch.Told())
	}
}

// TestTunnel_HalfOpen: one end believes in a connection that the other has given up.
func TestTunnel_HalfOpen(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(*harness.Relay){
		"kas still believes":    (*harness.Relay).HalfOpenAtKas,
		"agentk still believes": (*harness.Relay).HalfOpenAtAgentk,
		"nobody does":           (*harness.Relay).Cut,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, relay := relayed(t)
			state := f.ClusterState()
			watch := state.Watch(maps(f))
			watch.WaitTold(harness.ToldSynced)
			begun := time.Now()
			breakIt(relay)
			put(f, "a", "2")
			put(f, "b", "1")
			f.Eventually(func() error { return getWithin(f, state, "b", 5*time.Second) })
			answered := time.Since(begun)
			resets := -1              // one is its beginning
			if watch.Ended() != nil { // kas does not keep watches of an agent that is away for long
				resets += watch.Times(harness.ToldReset)
				watch = resume(f, state, watch)
			}
			catchUp(f, watch)
			whole := time.Since(begun)
			t.Logf("answered again after %s, and the watch went on after %s", answered, whole)
			if whole > foundWithin {
				t.Errorf("it took %s until the watch went on", whole)
			}
			if resets += watch.Times(harness.ToldReset); resets != 0 {
				t.Errorf("the watch began anew %d times: %v", resets, watch.Told())
			}
		})
	}
}

// TestTunnel_SlowReader: who watches much and takes nothing holds up nobody else. It runs
// alone: so many changes push those that other watches resume from out of agentk's memory.
func TestTunnel_SlowReader(t *testing.T) {
	const large, calls, answerTime = 60, 100, 30 * time.Second // who is held up is held up for ever
	f := env.New(t)
	for i := range large { // 12 MB: more than all buffers on the way
		put(f, fmt.Sprintf("large-%02d", i), strings.Repeat("x", 200_000))
	}
	put(f, "a", "1")
	state := f.ClusterState()
	f.Eventually(func() error { return getWithin(f, state, "a", answerTime) })

	slow, err := state.Client.Watch(t.Context(), &railsrpc.ClusterWatchRequest{
		AgentId: f.Agent.ID, Request: &clusterstate.WatchRequest{Query: maps(f)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Recv(); err != nil { // and no more
		t.Fatal(err)
	}
	for range calls {
		if err := getWithin(f, state, "a", answerTime); err != nil {
			t.Fatal(err)
		}
	}
	// Nor another watch of the same.
	watch := state.Watch(maps(f))
	watch.WaitTold(harness.ToldSynced)
	put(f, "b", "1")
	watch.WaitTold("ADDED b")
	catchUp(f, watch)
	// With the namespace they would be deleted some time during the next test.
	err = f.Kube.CoreV1().ConfigMaps(f.Name).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
}
