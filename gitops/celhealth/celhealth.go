// Package celhealth judges the health of objects by CEL expressions of the user's
// own, in place of kstatus.
//
// In go checks, one or more for a kind; out comes a gitops.HealthRules. New compiles
// everything, so that a mistake is the configuration's and not an object's.
//
// The expressions of a check are over the parts of an object: apiVersion, kind,
// metadata, spec, status, data (empty where the object has none) and self, the whole
// of it. Beside the language's own functions there are those of CEL's extensions for
// strings, lists, sets and math, and optional fields ("status.?phase.orValue(...)").
//
// Invariants:
//   - What decides is the first that is true: failed, inProgress, current. An object
//     for which none is true is in progress.
//   - An expression that cannot be evaluated, as where a field is missing, or that
//     costs too much, is not true.
//   - Of several checks for one kind the last one counts.
//
// Of ConfigMaps and Secrets the engine knows the metadata alone. Rules may be used by
// any number of goroutines; the package starts none.
package celhealth

import (
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
)

// costLimit bounds one evaluation, in CEL's own units: about a step each. A look at
// some conditions takes less than a hundred.
const costLimit = 100_000

// Check says how to judge the objects of one kind.
type Check struct {
	Group, Kind string
	// Failed and InProgress may be empty.
	Failed, InProgress, Current string
}

// Error is a mistake in a check.
type Error struct {
	// Index of the check, from 0.
	Index int
	// Field is "failed", "in_progress" or "current".
	Field string
	// Expression as it was given.
	Expression string
	Err        error
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("health_checks[%d].%s: %q: %v", e.Index, e.Field, e.Expression, e.Err)
}

// Unwrap returns what is wrong with the expression.
func (e *Error) Unwrap() error { return e.Err }

var (
	errMissing = errors.New("an expression is needed that is true of what is healthy")
	errType    = errors.New("the expression must be true or false")
)

// Rules implement gitops.HealthRules.
type Rules struct {
	checks map[schema.GroupKind]check
}

var _ gitops.HealthRules = (*Rules)(nil)

// check is compiled; failed and inProgress may be nil.
type check struct {
	source                      Check
	failed, inProgress, current cel.Program
}

// variables of the expressions, each a key of the object.
var variables = []string{"apiVersion", "kind", "metadata", "spec", "status", "data"}

// New compiles checks. Its errors are of type *Error.
func New(checks []Check) (*Rules, error) {
	options := []cel.EnvOption{
		cel.OptionalTypes(), ext.Strings(), ext.Lists(), ext.Sets(), ext.Math(),
		cel.Variable("self", cel.DynType),
	}
	for _, name := range variables {
		options = append(options, cel.Variable(name, cel.DynType))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("set CEL up: %w", err)
	}
	r := &Rules{checks: make(map[schema.GroupKind]check, len(checks))}
	for i, source := range checks {
		c := check{source: source}
		for _, e := range []struct {
			field, text string
			into        *cel.Program
		}{
			{"failed", source.Failed, &c.failed},
			{"in_progress", source.InProgress, &c.inProgress},
			{"current", source.Current, &c.current},
		} {
			if *e.into, err = compile(env, e.text); err != nil {
				return nil, &Error{Index: i, Field: e.field, Expression: e.text, Err: err}
			}
		}
		if c.current == nil {
			return nil, &Error{Index: i, Field: "current", Err: errMissing}
		}
		r.checks[schema.GroupKind{Group: source.Group, Kind: source.Kind}] = c
	}
	return r, nil
}

// compile returns nil for an empty expression.
func compile(env *cel.Env, expression string) (cel.Program, error) {
	if expression == "" {
		return nil, nil //nolint:nilnil // there is none, and that is fine
	}
	ast, issues := env.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("%w, not %s", errType, t)
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(costLimit))
	if err != nil {
		return nil, err //nolint:wrapcheck // New does
	}
	return program, nil
}

// Covers implements gitops.HealthRules.
func (r *Rules) Covers(kind schema.GroupKind) bool {
	_, ok := r.checks[kind]
	return ok
}

// Judge implements gitops.HealthRules.
func (r *Rules) Judge(u *unstructured.Unstructured) (gitops.Health, string, bool) {
	c, ok := r.checks[u.GroupVersionKind().GroupKind()]
	if !ok {
		return 0, "", false
	}
	parts := make(map[string]any, len(variables)+1)
	for _, name := range variables {
		part, set := u.Object[name]
		if !set {
			part = map[string]any{}
		}
		parts[name] = part
	}
	parts["self"] = u.Object
	switch {
	case holds(c.failed, parts):
		return gitops.HealthFailed, "failed, because of its health check: " + c.source.Failed, true
	case holds(c.inProgress, parts):
		return gitops.HealthInProgress, "in progress, because of its health check: " + c.source.InProgress, true
	case holds(c.current, parts):
		return gitops.HealthCurrent, "", true
	default:
		return gitops.HealthInProgress, "in progress until its health check holds: " + c.source.Current, true
	}
}

// holds says that an expression is true.
func holds(program cel.Program, parts map[string]any) bool {
	if program == nil {
		return false
	}
	value, _, err := program.Eval(parts)
	if err != nil {
		return false
	}
	is, ok := value.Value().(bool)
	return ok && is
}
