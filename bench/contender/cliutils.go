package contender

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/cli-utils/pkg/apply"
	"sigs.k8s.io/cli-utils/pkg/apply/event"
	"sigs.k8s.io/cli-utils/pkg/common"
	"sigs.k8s.io/cli-utils/pkg/inventory"

	"github.com/kas-agentk/kas/bench/objects"
)

// reconcileTimeout is how long the applier waits for objects to become healthy. No
// Deployment ever is, for its controller does not run; that time is not counted.
const reconcileTimeout = 5 * time.Second

// cliUtils is the stock applier with its stock ConfigMap inventory.
type cliUtils struct {
	applier   *apply.Applier
	namespace string
}

func newCLIUtils(_ context.Context, cfg Config) (*cliUtils, error) {
	flags := genericclioptions.NewConfigFlags(true).WithDiscoveryQPS(-1)
	flags.CacheDir = nil
	flags.KubeConfig = &cfg.Kubeconfig
	flags.WrapConfigFn = func(rc *rest.Config) *rest.Config {
		rc.UserAgent, rc.QPS, rc.WarningHandler = cfg.UserAgent, -1, rest.NoWarnings{}
		return rc
	}
	klog.LogToStderr(true)
	factory := cmdutil.NewFactory(flags)
	inv, err := inventory.ClusterClientFactory{StatusPolicy: inventory.StatusPolicyNone}.NewClient(factory)
	if err != nil {
		return nil, fmt.Errorf("make an inventory client: %w", err)
	}
	a, err := apply.NewApplierBuilder().WithFactory(factory).WithInventoryClient(inv).Build()
	if err != nil {
		return nil, fmt.Errorf("make an applier: %w", err)
	}
	return &cliUtils{applier: a, namespace: cfg.Namespace}, nil
}

func (c *cliUtils) close() error { return nil }

func (c *cliUtils) prepare(project string, _ Phase, set []objects.Object) (syncFunc, error) {
	decoded, err := decode(set)
	if err != nil {
		return nil, err
	}
	info := inventory.WrapInventoryInfoObj(&unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": "inventory-" + project, "namespace": c.namespace,
			"labels": map[string]any{common.InventoryLabel: project},
		},
	}})
	return func(ctx context.Context) (time.Time, error) {
		events := c.applier.Run(ctx, info, decoded, apply.ApplierOptions{
			ServerSideOptions: common.ServerSideOptions{ServerSideApply: true, ForceConflicts: true, FieldManager: "bench-cli-utils"},
			// Spares it one GET for each object.
			InventoryPolicy:  inventory.PolicyAdoptAll,
			ReconcileTimeout: reconcileTimeout, PruneTimeout: reconcileTimeout,
		})
		return follow(events)
	}, nil
}

// follow reads the events of a run, and notes when the last object was settled.
func follow(events <-chan event.Event) (time.Time, error) {
	settled := time.Now()
	var failed failures
	for e := range events {
		switch e.Type {
		case event.ApplyType:
			settled = time.Now()
			if e.ApplyEvent.Status == event.ApplyFailed || e.ApplyEvent.Status == event.ApplySkipped {
				failed.add(e.ApplyEvent.Identifier.String(), fmt.Sprint(e.ApplyEvent.Error))
			}
		case event.PruneType:
			settled = time.Now()
			if e.PruneEvent.Status == event.PruneFailed || e.PruneEvent.Status == event.PruneSkipped {
				failed.add(e.PruneEvent.Identifier.String(), fmt.Sprint(e.PruneEvent.Error))
			}
		case event.ErrorType:
			failed.add("run", fmt.Sprint(e.ErrorEvent.Err))
		default: // progress
		}
	}
	return settled, failed.err()
}
