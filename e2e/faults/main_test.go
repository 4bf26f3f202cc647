// Package faults kills and stops each part in the middle of its work and lets it go
// on. The system must converge by itself, with nothing lost, duplicated or touched
// without need. What costs nothing when nothing happens is counted here as well.
// The tests run one after the other, for what they break, and count, is shared; those that
// break only a network of their own run side by side when the others are done.
package faults

import (
	"os"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
)

var env *harness.Env

func TestMain(m *testing.M) { os.Exit(harness.Main(m, &env)) }
