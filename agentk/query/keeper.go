package query

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/retry"
)

// Kept is what is to be known always.
type Kept struct {
	Resource schema.GroupResource
	Form     objects.Form
}

// KeeperConfig is what a Keeper needs.
type KeeperConfig struct {
	Log *zap.Logger
	// Retry is how long to wait before something is looked for again that is not served,
	// or must not be read; zero: from a second to a minute.
	Retry retry.Policy
}

// Keeper holds Views of what is to be known always, so that the first question about it
// is answered at once as well.
type Keeper struct {
	cfg    KeeperConfig
	source source

	mu sync.Mutex
	// wanted has one place: the newest wins. It is written to under mu.
	wanted chan []Kept
}

// NewKeeper returns a Keeper that keeps nothing yet.
func NewKeeper(cfg KeeperConfig, resources Resources, cache Cache) *Keeper {
	if cfg.Retry == (retry.Policy{}) {
		cfg.Retry = retry.Policy{Initial: time.Second, Max: time.Minute, ResetAfter: time.Minute}
	}
	return &Keeper{cfg: cfg, source: source{resources: resources, cache: cache}, wanted: make(chan []Kept, 1)}
}

// Keep says what is to be kept from now on, and nothing else. It does not wait.
func (k *Keeper) Keep(kept []Kept) {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.wanted: // nobody has seen it
	default:
	}
	k.wanted <- slices.Clone(kept)
}

// Run keeps what Keep says until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	var holders sync.WaitGroup
	defer holders.Wait()
	held := map[Kept]context.CancelFunc{}
	defer func() {
		for _, release := range held {
			release()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case kept := <-k.wanted:
			for one, release := range held {
				if !slices.Contains(kept, one) {
					release()
					delete(held, one)
				}
			}
			for _, one := range kept {
				if _, ok := held[one]; ok {
					continue
				}
				holding, release := context.WithCancel(ctx) //nolint:gosec // it is called when it is no longer wanted, or at the end
				held[one] = release
				holders.Go(func() { k.hold(holding, one) })
			}
		}
	}
}

// hold holds one View after another until ctx ends.
func (k *Keeper) hold(ctx context.Context, kept Kept) {
	var said string
	_ = retry.Do(ctx, k.cfg.Retry, func(ctx context.Context) error {
		return k.holdOne(ctx, kept, &said)
	}, func(err error, _ time.Duration) {
		if errors.Is(err, errEnded) || err.Error() == said {
			return
		}
		said = err.Error()
		k.cfg.Log.Warn("What cluster_state.preload names cannot be kept; it is tried again and again",
			zap.Stringer("resource", kept.Resource), zap.Error(err))
	})
}

// holdOne returns why there is no View, or that it has ended. said is what was last said
// to be wrong.
func (k *Keeper) holdOne(ctx context.Context, kept Kept, said *string) error {
	view, err := k.source.open(ctx, kept.Resource.WithVersion(""), kept.Form)
	if err != nil {
		return err
	}
	defer view.Release()
	if *said != "" && !ended(view) {
		*said = ""
		k.cfg.Log.Info("What cluster_state.preload names is kept now", zap.Stringer("resource", kept.Resource))
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-view.Ended():
		return errEnded
	}
}
