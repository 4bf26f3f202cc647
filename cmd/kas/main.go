// Command kas is the server that agents in clusters connect to.
package main

import (
	"os"

	"github.com/kas-agentk/kas/kas"
)

func main() {
	os.Exit(kas.Main())
}
