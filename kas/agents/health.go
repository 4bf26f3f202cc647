package agents

import (
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"

	"github.com/kas-agentk/kas/api/agentcfg"
)

var errNoTruth = errors.New("the expression must be true or false")

// checkHealth compiles the expressions of a health check, so that a mistake in one is
// shown where it was made and not on each object. The variables and functions are
// those that agentk's engine has (gitops/celhealth), which kas does not import. It
// returns the key that is at fault.
func checkHealth(c *agentcfg.HealthCheck) (key string, err error) {
	options := []cel.EnvOption{cel.OptionalTypes(), ext.Strings(), ext.Lists(), ext.Sets(), ext.Math()}
	for _, name := range []string{"self", "apiVersion", "kind", "metadata", "spec", "status", "data"} {
		options = append(options, cel.Variable(name, cel.DynType))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return "current", fmt.Errorf("set CEL up: %w", err)
	}
	for _, e := range []struct{ key, text string }{
		{"failed", c.GetFailed()}, {"in_progress", c.GetInProgress()}, {"current", c.GetCurrent()},
	} {
		if e.text == "" {
			continue
		}
		ast, issues := env.Compile(e.text)
		if err := issues.Err(); err != nil {
			return e.key, fmt.Errorf("%s: %q is no CEL expression: %w", e.key, e.text, err)
		}
		if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
			return e.key, fmt.Errorf("%s: %q: %w, not %s", e.key, e.text, errNoTruth, t)
		}
	}
	return "", nil
}
