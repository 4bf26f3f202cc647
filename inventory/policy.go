package inventory

// Policy says what to do with an object that exists in the cluster and that the
// inventory at hand does not own.
type Policy int

// The policies are those of cli-utils, whose own package has half of kubectl linked
// in.
const (
	// PolicyMustMatch leaves alone what this inventory does not own.
	PolicyMustMatch Policy = iota
	// PolicyAdoptIfNoInventory takes what no inventory owns.
	PolicyAdoptIfNoInventory
	// PolicyAdoptAll takes everything.
	PolicyAdoptAll
)

// OwnerAnnotation of an object names the inventory that owns it, as in cli-utils.
const OwnerAnnotation = "config.k8s.io/owning-inventory"
