package render

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childEnv has the test's own program render for it.
const childEnv = "RENDER_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := Serve(os.Stdin, os.Stdout, func() { os.Exit(3) }); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
