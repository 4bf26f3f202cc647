// Package scenarios is the user's day, one scenario a test, on real parts.
package scenarios

import (
	"os"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
)

var env *harness.Env

func TestMain(m *testing.M) { os.Exit(harness.Main(m, &env)) }
