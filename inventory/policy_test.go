package inventory

import (
	"testing"

	"github.com/stretchr/testify/require"
	cliinventory "sigs.k8s.io/cli-utils/pkg/inventory"
)

func TestPolicy_IsThatOfCliUtils(t *testing.T) {
	require.EqualValues(t, cliinventory.PolicyMustMatch, PolicyMustMatch)
	require.EqualValues(t, cliinventory.PolicyAdoptIfNoInventory, PolicyAdoptIfNoInventory)
	require.EqualValues(t, cliinventory.PolicyAdoptAll, PolicyAdoptAll)
	require.Equal(t, cliinventory.OwningInventoryKey, OwnerAnnotation)
}
