// Package faults kills each part with SIGKILL in the middle of a sync and starts it
// again. The system must converge by itself, with nothing lost, duplicated or
// touched without need. The tests run one after the other: what they kill is shared.
package faults

import (
	"os"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
)

var env *harness.Env

func TestMain(m *testing.M) { os.Exit(harness.Main(m, &env)) }
