package replicas

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/redis/rueidis"
)

// maxAnswers is how many agents' whereabouts are kept. The one asked for longest ago gives way.
const maxAnswers = 16 << 10

// whereabouts is what is known of the other replicas, and of who has which agent.
type whereabouts struct {
	clock clock.PassiveClock
	ttl   time.Duration // how long it is used while Redis is away

	mu      sync.Mutex
	answers *lru.Cache // of *answer by agent ID; who leaves it has its channel closed
	alive   []string   // the others; not changed, only replaced
	lost    time.Time  // since when Redis is away; zero: it is not
}

// answer is where one agent is.
type answer struct {
	known   bool
	urls    []string // not changed
	changed chan struct{}
}

func newWhereabouts(c clock.PassiveClock, ttl time.Duration) *whereabouts {
	return &whereabouts{
		clock: c, ttl: ttl, lost: c.Now().Add(-ttl),
		answers: lru.NewWithEvictionFunc(maxAnswers, func(_ lru.Key, value any) { close(value.(*answer).changed) }),
	}
}

// Where tells which other replicas have the agent, by their URLs, and gives a channel that is
// closed when the answer may be different: then ask again. The channel is there with an error
// as well. While Redis is away, what was known before it went is told for EntryTTL; what was
// not known is ErrAway.
func (r *Replicas) Where(ctx context.Context, agentID int64) (urls []string, changed <-chan struct{}, err error) {
	s, err := r.current()
	w := r.where
	a, others := w.ask(agentID)
	switch {
	case r.alone():
		return nil, a.changed, nil
	case a.known:
		return a.urls, a.changed, nil
	case err != nil:
		return nil, a.changed, err
	}
	urls, err = s.whoHas(ctx, agentID, others)
	if err != nil {
		return nil, a.changed, err
	}
	w.learn(agentID, &a, urls)
	return urls, a.changed, nil
}

// whoHas asks Redis which of the replicas have the agent.
func (s *session) whoHas(ctx context.Context, agentID int64, others []string) ([]string, error) {
	field := strconv.FormatInt(agentID, 10)
	commands := make([]rueidis.Completed, 0, len(others))
	for _, url := range others {
		commands = append(commands, s.client.B().Hexists().Key(s.r.agentsKey(url)).Field(field).Build())
	}
	results, err := s.multi(ctx, "where", commands...)
	if err != nil {
		return nil, err
	}
	var urls []string
	for i, result := range results {
		if has, err := result.AsBool(); err == nil && has {
			urls = append(urls, others[i])
		}
	}
	return urls, nil
}

// Others lists the URLs of the other replicas that are alive. While Redis is away it is what
// was known before it went, for EntryTTL.
func (r *Replicas) Others(context.Context) ([]string, error) {
	_, err := r.current()
	w := r.where
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && w.stale() {
		return nil, err
	}
	return slices.Clone(w.alive), nil
}

// ask returns what is known, and whom to ask otherwise.
func (w *whereabouts) ask(agentID int64) (answer, []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found, ok := w.answers.Get(agentID)
	if !ok {
		found = &answer{changed: make(chan struct{})}
		w.answers.Add(agentID, found)
	}
	a := *found.(*answer)
	if w.stale() {
		a.known = false
	}
	return a, w.alive
}

// learn keeps an answer, unless it may be different by now.
func (w *whereabouts) learn(agentID int64, a *answer, urls []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if found, ok := w.answers.Get(agentID); ok && found.(*answer).changed == a.changed {
		w.answers.Add(agentID, &answer{known: true, urls: urls, changed: a.changed})
	}
}

// stale tells whether Redis has been away for too long.
func (w *whereabouts) stale() bool {
	return !w.lost.IsZero() && w.clock.Since(w.lost) >= w.ttl
}

// changed forgets where the agents are.
func (w *whereabouts) changed(agentIDs []int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range agentIDs {
		w.answers.Remove(id)
	}
}

// drop forgets where all agents are.
func (w *whereabouts) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers.Clear()
}

// others learns who is alive, and returns who is not any more. Whom an agent may be asked of
// has changed with it.
func (w *whereabouts) others(urls []string) (gone []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Equal(urls, w.alive) {
		return nil
	}
	for _, url := range w.alive {
		if !slices.Contains(urls, url) {
			gone = append(gone, url)
		}
	}
	w.alive = urls
	w.answers.Clear()
	return gone
}

// rank of a replica among those that are alive: each has another one, by and large.
func (w *whereabouts) rank(self string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	rank := 0
	for _, url := range w.alive {
		if url < self {
			rank++
		}
	}
	return rank
}

// back notes that Redis is there again: nothing that was known holds.
func (w *whereabouts) back() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = time.Time{}
	w.answers.Clear()
}

// away notes that Redis is away.
func (w *whereabouts) away() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost.IsZero() {
		w.lost = w.clock.Now()
	}
}
