package stack

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

const module = "github.com/kas-agentk/kas"

// Programs is where our own programs are.
type Programs struct {
	Kas, Agentk, Ror, Kasctl string
}

// BuildPrograms builds them into dir. With race they carry the race detector, which
// makes a data race in any of them a line in its log and exit code 66.
func BuildPrograms(ctx context.Context, dir string, race bool) (Programs, error) {
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	if race {
		args = append(args, "-race")
	}
	for _, name := range []string{"kas", "agentk", "ror", "kasctl"} {
		args = append(args, module+"/cmd/"+name)
	}
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if err != nil {
		return Programs{}, fmt.Errorf("build kas, agentk, ror and kasctl: %w\n%s", err, out)
	}
	return ProgramsIn(dir), nil
}

// ProgramsIn is the programs that were built into dir.
func ProgramsIn(dir string) Programs {
	return Programs{
		Kas:    filepath.Join(dir, "kas"),
		Agentk: filepath.Join(dir, "agentk"),
		Ror:    filepath.Join(dir, "ror"),
		Kasctl: filepath.Join(dir, "kasctl"),
	}
}
