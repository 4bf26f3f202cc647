package replicas

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
)

// chunkOf bounds how many agents are in one command or message.
const chunkOf = 256

// registry is what this replica has.
type registry struct {
	dirtied chan struct{} // there is something in dirty
	kicked  chan struct{} // who is alive may have changed

	mu    sync.Mutex
	here  map[int64][]byte
	dirty map[int64]struct{} // what has changed and is not in Redis
}

func newRegistry() *registry {
	return &registry{
		dirtied: make(chan struct{}, 1), kicked: make(chan struct{}, 1),
		here: make(map[int64][]byte), dirty: make(map[int64]struct{}),
	}
}

// Here says what this replica has of an agent: some hundred bytes that the others read by
// Entries. Nil: nothing any more. The entry must not be changed afterwards.
func (r *Replicas) Here(agentID int64, entry []byte) {
	g := r.registry
	g.mu.Lock()
	if entry == nil {
		delete(g.here, agentID)
	} else {
		g.here[agentID] = entry
	}
	if !r.alone() {
		g.dirty[agentID] = struct{}{}
	}
	g.mu.Unlock()
	nudge(g.dirtied)
}

// kick has who is alive looked up at once.
func (g *registry) kick() { nudge(g.kicked) }

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// change is one agent's entry that is to be written; nil: removed.
type change struct {
	agentID int64
	entry   []byte
}

// take returns what has changed, or everything that there is.
func (g *registry) take(everything bool) []change {
	g.mu.Lock()
	defer g.mu.Unlock()
	var changes []change
	if everything {
		for id, entry := range g.here {
			changes = append(changes, change{id, entry})
		}
	} else {
		for id := range g.dirty {
			changes = append(changes, change{id, g.here[id]})
		}
	}
	clear(g.dirty)
	return changes
}

// register writes what changes, and says again and again that this replica is alive.
func (s *session) register(ctx context.Context) error {
	g := s.r.registry
	ticker := s.r.cfg.Clock.NewTicker(s.r.cfg.AliveTTL * 2 / 5)
	defer ticker.Stop()
	warned := false
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-g.dirtied:
			err = s.write(ctx, g.take(false))
		case <-g.kicked:
			_, err = s.alive(ctx)
		case <-ticker.C():
			var other bool
			if other, err = s.alive(ctx); other && !warned {
				warned = true
				s.r.log.Warn("Another kas has the same URL: private_api.own_url must be different for each", zap.String("url", s.r.cfg.Self))
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// announce begins this replica's registration anew.
func (s *session) announce(ctx context.Context) error {
	r := s.r
	result, err := s.script(ctx, "claim", claimScript, []string{r.agentsKey(r.cfg.Self)}, []string{r.instance, millis(r.cfg.EntryTTL)})
	if err != nil {
		return err
	}
	before, _ := result.AsStrMap() // what is none was nobody's
	s.written = make(map[int64]struct{})
	if err := s.write(ctx, r.registry.take(true)); err != nil {
		return err
	}
	if _, err := s.sayAlive(ctx); err != nil {
		return err
	}
	r.orphaned(before)
	_, err = s.multi(ctx, "tell", s.client.B().Publish().Channel(r.controlChannel()).Message(r.control(replicaChanged, "")).Build())
	return err
}

// write brings changes to Redis and tells the others which agents have come or gone.
func (s *session) write(ctx context.Context, changes []change) error {
	for chunk := range slices.Chunk(changes, chunkOf) {
		if _, err := s.multi(ctx, "register", s.commands(chunk)...); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) commands(changes []change) []rueidis.Completed {
	key := s.r.agentsKey(s.r.cfg.Self)
	set, gone, news := []string{}, []string{}, []int64{}
	for _, c := range changes {
		field := strconv.FormatInt(c.agentID, 10)
		_, was := s.written[c.agentID]
		if c.entry == nil {
			gone = append(gone, field)
			delete(s.written, c.agentID)
		} else {
			set = append(set, field, rueidis.BinaryString(c.entry))
			s.written[c.agentID] = struct{}{}
		}
		if was != (c.entry != nil) {
			news = append(news, c.agentID)
		}
	}
	var commands []rueidis.Completed
	b := s.client.B()
	if len(set) > 0 {
		commands = append(commands, b.Arbitrary("HSET").Keys(key).Args(set...).Build())
	}
	if len(gone) > 0 {
		commands = append(commands, b.Hdel().Key(key).Field(gone...).Build())
	}
	if len(news) > 0 {
		message := s.r.control(agentsChanged, formatIDs(news))
		commands = append(commands, b.Publish().Channel(s.r.controlChannel()).Message(message).Build())
	}
	return commands
}

// alive says that this replica is. Where Redis does not have what it should have, everything
// is announced anew. It tells whether that is because another replica has the same URL.
func (s *session) alive(ctx context.Context) (bool, error) {
	answer, err := s.sayAlive(ctx)
	if err != nil {
		return false, err
	}
	if answer.owner == s.r.instance && answer.size == len(s.written)+1 {
		return false, nil
	}
	return answer.owner != "" && answer.owner != s.r.instance, s.announce(ctx)
}

type aliveAnswer struct {
	owner string
	size  int // of this replica's hash
}

// sayAlive also learns who else is.
func (s *session) sayAlive(ctx context.Context) (aliveAnswer, error) {
	r := s.r
	result, err := s.script(ctx, "alive", aliveScript, []string{r.key("replicas"), r.agentsKey(r.cfg.Self)},
		[]string{r.cfg.Self, millis(r.cfg.AliveTTL), millis(r.cfg.EntryTTL)})
	if err != nil {
		return aliveAnswer{}, err
	}
	parts, err := result.ToArray()
	if err != nil || len(parts) != 4 {
		return aliveAnswer{}, fmt.Errorf("say that this replica is alive: Redis answers %d parts: %w", len(parts), err)
	}
	owner, _ := parts[0].ToString() // nil: the hash is gone
	size, sizeErr := parts[1].AsInt64()
	urls, urlsErr := parts[2].AsStrSlice()
	gone, goneErr := parts[3].AsStrSlice()
	if err := errors.Join(sizeErr, urlsErr, goneErr); err != nil {
		return aliveAnswer{}, fmt.Errorf("say that this replica is alive: what Redis answers is no size and two lists: %w", err)
	}
	urls = slices.DeleteFunc(urls, func(url string) bool { return url == r.cfg.Self })
	slices.Sort(urls)
	r.metrics.alive.Set(float64(len(urls)))
	if err := s.inherit(ctx, append(gone, r.where.others(urls)...)); err != nil {
		return aliveAnswer{}, err
	}
	return aliveAnswer{owner: owner, size: int(size)}, nil
}

// farewell takes back that this replica is there. It has Redis's ear for the last time, so
// nothing is done about errors.
func (s *session) farewell(ctx context.Context) {
	r := s.r
	_ = s.publishQueued(ctx)
	_ = s.release(ctx, r.leases.takeReleased(true))
	_, _ = s.script(ctx, "farewell", farewellScript, []string{r.key("replicas"), r.agentsKey(r.cfg.Self)},
		[]string{r.cfg.Self, r.instance, r.controlChannel(), r.control(replicaChanged, "")})
}

// agentsKey is the hash of what the replica with the URL has.
func (r *Replicas) agentsKey(url string) string { return r.key("agents:" + url) }

// local is what this replica has of the agents; none given: of all.
func (g *registry) local(agentIDs []int64) map[int64][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(agentIDs) == 0 {
		return maps.Clone(g.here)
	}
	found := make(map[int64][]byte)
	for _, id := range agentIDs {
		if entry, ok := g.here[id]; ok {
			found[id] = entry
		}
	}
	return found
}
