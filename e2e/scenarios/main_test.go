// Package scenarios is the user's day, one scenario a test, on real parts.
package scenarios

import (
	"fmt"
	"os"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
)

var env *harness.Env

func TestMain(m *testing.M) {
	if path := os.Getenv(bareEnv); path != "" {
		if err := serveBare(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(harness.Main(m, &env))
}
