// Command ror stands in for GitLab Rails: agents, projects, Git over HTTP, and the
// page that shows how far every cluster is.
package main

import (
	"os"

	"github.com/kas-agentk/kas/ror"
)

func main() {
	os.Exit(ror.Main())
}
