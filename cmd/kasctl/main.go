// Command kasctl shows agents and the status of what they sync.
package main

import (
	"os"

	"github.com/kas-agentk/kas/kasctl"
)

func main() {
	os.Exit(kasctl.Main())
}
