package gitops

import (
	"context"
	"fmt"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// application is one object and how it is to be applied.
type application struct {
	object  *manifests.Object
	id      inventory.ID
	version string
	// subs are values that are read from other objects first.
	subs []substitution
	// yield: see Apply.
	yield []string
	// owner is the ID of the inventory.
	owner  string
	dryRun bool
}

// apply sends one object. It returns what the inventory is to record as its digest.
// No secret value is in its errors.
func apply(ctx context.Context, c Cluster, a application) (Live, inventory.Hash, error) {
	var secrets []string
	live, digest, err := func() (live Live, digest inventory.Hash, err error) {
		req := Apply{ID: a.id, Version: a.version, Yield: a.yield, DryRun: a.dryRun}
		digest = inventory.Short(a.object.Digest)
		if len(a.subs) == 0 {
			req.JSON, err = payload(a.object, a.id, a.owner)
		} else {
			req.JSON, digest, secrets, err = mutatedPayload(ctx, c, a)
		}
		if err != nil {
			return Live{}, digest, err
		}
		live, err = c.Apply(ctx, req)
		return live, digest, err
	}()
	if err != nil && isSecret(a.id) {
		secrets = append(secrets, secretsOf(a.object)...)
	}
	return live, withFields(digest, a.yield), mask(err, secrets)
}

// mutatedPayload is payload with values from other objects.
func mutatedPayload(ctx context.Context, c Cluster, a application) (data []byte, digest inventory.Hash, secrets []string, err error) {
	u, err := a.object.Unstructured()
	if err != nil {
		return nil, digest, nil, err
	}
	if digest, secrets, err = mutate(ctx, c, a.object, u.Object, a.subs); err != nil {
		return nil, digest, secrets, err
	}
	if data, err = marked(u, a.id, a.owner); err != nil {
		return nil, digest, secrets, fmt.Errorf("substitute values: %w", err)
	}
	return data, digest, secrets, nil
}
