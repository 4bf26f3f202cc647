package contender

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kas-agentk/kas/bench/objects"
)

// Phase is what is measured.
type Phase string

// The phases, in their order.
const (
	// Cold: nothing of the set exists.
	Cold Phase = "cold"
	// Unchanged: everything is as it should be.
	Unchanged Phase = "unchanged"
	// Changed: one object of a hundred has changed in the set.
	Changed Phase = "changed"
	// Prune: the set has become empty.
	Prune Phase = "prune"
)

// Phases of one run.
func Phases() []Phase { return []Phase{Cold, Unchanged, Changed, Prune} }

// The contenders' names.
const (
	Raw      = "raw"
	Ours     = "ours"
	CLIUtils = "cli-utils"
	FluxSSA  = "flux-ssa"
)

// Names of all contenders.
func Names() []string { return []string{Raw, Ours, CLIUtils, FluxSSA} }

// Config is what a contender needs.
type Config struct {
	// Kubeconfig is the path of a file, UserAgent what every request is to carry.
	Kubeconfig, UserAgent string
	// Namespace for inventories.
	Namespace string
}

// restConfig is how all of them reach the API server.
func (c Config) restConfig() (*rest.Config, error) {
	rc, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	rc.UserAgent = c.UserAgent
	rc.QPS = -1 // no limit of the client's own
	rc.WarningHandler = rest.NoWarnings{}
	return rc, nil
}

// contender syncs sets. Its projects are independent of each other.
type contender interface {
	// prepare returns a function that makes the cluster hold the set, and nothing
	// else of the project, which returns when the last object was settled.
	prepare(project string, phase Phase, set []objects.Object) (syncFunc, error)
	close() error
}

type syncFunc func(ctx context.Context) (settled time.Time, err error)

var errUnknown = errors.New("no such contender")

// newContender makes one by its name. ctx bounds what it keeps running.
func newContender(ctx context.Context, name string, cfg Config) (contender, error) {
	switch name {
	case Raw:
		return newRaw(cfg)
	case Ours:
		return newOurs(ctx, cfg)
	case CLIUtils:
		return newCLIUtils(ctx, cfg)
	case FluxSSA:
		return newFlux(cfg)
	default:
		return nil, fmt.Errorf("%w: %q", errUnknown, name)
	}
}

// failures counts objects that could not be synced, and remembers the first.
type failures struct {
	count int
	first string
}

func (f *failures) add(object, message string) {
	if f.count++; f.count == 1 {
		f.first = object + ": " + message
	}
}

var errFailed = errors.New("objects could not be synced")

func (f *failures) err() error {
	if f.count == 0 {
		return nil
	}
	return fmt.Errorf("%d %w, the first: %s", f.count, errFailed, f.first)
}
