// Command agentk is the agent that runs in a cluster and follows kas.
package main

import (
	"os"

	"github.com/kas-agentk/kas/agentk"
)

func main() {
	os.Exit(agentk.Main())
}
