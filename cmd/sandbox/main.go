// Command sandbox runs the real things that kas needs around it on one machine, and
// the demo on top of them.
package main

import (
	"os"

	"github.com/kas-agentk/kas/internal/program"
)

func main() {
	os.Exit(program.Main(newCommand()))
}
