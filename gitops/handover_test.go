package gitops_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

const second = "1-3"

// siblings are what two projects of one agent want; nil: not known yet.
type siblings map[string]*gitops.Desired

// seenBy is one project's view of the others.
type seenBy struct {
	siblings
	key string
}

func (s siblings) holds(key string, id inventory.ID) bool {
	if s[key] == nil {
		return false
	}
	for _, o := range s[key].Set.Objects {
		if o.ID.Name == id.Name {
			return true
		}
	}
	return false
}

func (s seenBy) WantedBy(id inventory.ID) (string, bool) {
	for key := range s.siblings {
		if key != s.key && s.holds(key, id) {
			return key, true
		}
	}
	return "", false
}

func (s seenBy) Released(key string, id inventory.ID) bool {
	return key != s.key && s.siblings[key] != nil && !s.holds(key, id)
}

func (s seenBy) Settled() bool {
	for _, d := range s.siblings {
		if d == nil {
			return false
		}
	}
	return true
}

// pair is two projects over one world.
type pair struct {
	t *testing.T
	w *world
	siblings
}

func newPair(t *testing.T) *pair {
	t.Helper()
	return &pair{t: t, w: newWorld(), siblings: siblings{owner: nil, second: nil}}
}

func (p *pair) project(key string) gitops.Project {
	out := project()
	out.Key, out.Others = key, seenBy{p.siblings, key}
	return out
}

// run runs the newest set of a project in a process of its own.
func (p *pair) run(key string) (gitops.Result, *observer) {
	p.t.Helper()
	return run(p.t, p.w.process(), p.project(key), *p.siblings[key])
}

func (p *pair) want(key string, docs ...string) {
	p.t.Helper()
	d := set(p.t, docs...)
	p.siblings[key] = &d
}

// of lists the names that an inventory holds.
func (p *pair) of(key string) []string {
	p.t.Helper()
	inv, err := inventory.Load(p.t.Context(), p.w, key)
	require.NoError(p.t, err)
	var names []string
	for id := range inv.All() {
		names = append(names, id.Name)
	}
	return names
}

func TestRun_MovedObjectIsHandedOver(t *testing.T) {
	for _, row := range []struct {
		name  string
		order []string
	}{
		{"the old project runs first", []string{owner, second}},
		{"the new project runs first", []string{second, owner}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newPair(t)
			p.want(owner, cm("moved", "1"), cm("rest", "1"))
			p.want(second, cm("other", "1"))
			p.run(owner)
			p.run(second)
			uid := p.w.objects[cmID("moved")].UID

			// Both want it: it stays whose it is.
			p.want(second, cm("other", "1"), cm("moved", "2"))
			result, o := p.run(second)
			require.Equal(t, 1, result.Failed)
			require.Equal(t, 1, result.Waiting)
			require.Equal(t, gitops.ActionSkipped, o.get("moved").Action)

			p.want(owner, cm("rest", "1"))
			for _, key := range row.order {
				result, o = p.run(key)
				require.Zero(t, result.Failed)
				if key == owner && row.order[0] == owner {
					require.Equal(t, 1, result.Waiting)
					require.Equal(t, gitops.ActionSkipped, o.get("moved").Action)
					require.Contains(t, o.get("moved").Message, second)
					require.Contains(t, p.of(owner), "moved", "until the other has it, it is on record here")
				}
			}
			p.run(owner)
			require.NotContains(t, p.of(owner), "moved")
			require.Contains(t, p.of(second), "moved")
			live := p.w.objects[cmID("moved")]
			require.Equal(t, uid, live.UID)
			require.Equal(t, second, live.Owner)
		})
	}
}

func TestRun_NothingIsDeletedBeforeTheOtherProjectsAreKnown(t *testing.T) {
	p := newPair(t)
	p.want(owner, cm("moved", "1"), cm("rest", "1"))
	p.run(owner)
	p.want(owner, cm("rest", "1"))
	result, o := p.run(owner)
	require.Equal(t, 1, result.Waiting)
	require.Contains(t, o.get("moved").Message, "not known yet")
	require.Contains(t, p.w.names(), "moved")

	p.want(second, cm("other", "1"))
	_, o = p.run(owner)
	require.Equal(t, gitops.ActionPruned, o.get("moved").Action)
}

func TestRun_HandoverSurvivesACrashOfEitherProjectAtEveryCall(t *testing.T) {
	for _, crashing := range []string{owner, second} {
		other := map[string]string{owner: second, second: owner}[crashing]
		crashed := 0
		for n := 1; ; n++ {
			p := newPair(t)
			p.want(owner, cm("moved", "1"), cm("rest", "1"))
			p.want(second, cm("other", "1"))
			p.run(owner)
			p.run(second)
			uid := p.w.objects[cmID("moved")].UID
			p.want(owner, cm("rest", "1"))
			p.want(second, cm("other", "1"), cm("moved", "2"))

			f := p.w.process()
			asked := 0
			f.fault = func(string) error {
				if asked++; asked >= n {
					return gitops.ErrUnavailable
				}
				return nil
			}
			_, err := gitops.Run(t.Context(), f, p.project(crashing), *p.siblings[crashing], newObserver())
			require.Equal(t, uid, p.w.objects[cmID("moved")].UID)
			require.Contains(t, append(p.of(owner), p.of(second)...), "moved", "on record at every moment")
			for _, key := range []string{other, crashing, other} {
				p.run(key)
				require.Equal(t, uid, p.w.objects[cmID("moved")].UID)
			}
			require.Equal(t, second, p.w.objects[cmID("moved")].Owner)
			require.NotContains(t, p.of(owner), "moved")
			require.Contains(t, p.of(second), "moved")
			if err == nil {
				break
			}
			crashed++
		}
		require.Greater(t, crashed, 2)
	}
}
