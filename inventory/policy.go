package inventory

import cliinventory "sigs.k8s.io/cli-utils/pkg/inventory"

// Policy says what to do with an object that exists in the cluster and that the
// inventory at hand does not own.
type Policy = cliinventory.Policy

// The policies, as cli-utils defines them.
const (
	// PolicyMustMatch leaves alone what this inventory does not own.
	PolicyMustMatch = cliinventory.PolicyMustMatch
	// PolicyAdoptIfNoInventory takes what no inventory owns.
	PolicyAdoptIfNoInventory = cliinventory.PolicyAdoptIfNoInventory
	// PolicyAdoptAll takes everything.
	PolicyAdoptAll = cliinventory.PolicyAdoptAll
)
