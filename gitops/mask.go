package gitops

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// masked stands for a secret value.
const masked = "(masked)"

const (
	// shortest value that is masked: what is shorter is no secret, and would tear up
	// every text.
	shortestSecret = 3
	// shortestLine of a value of several lines that is masked alone.
	shortestLine = 8
)

// isSecret says that the object's values must not show anywhere.
func isSecret(id inventory.ID) bool {
	return id.GroupKind.Group == "" && id.GroupKind.Kind == "Secret"
}

// secretsOf lists the values of a Secret's manifest, as they are and as they are
// written.
func secretsOf(o *manifests.Object) []string {
	var secret struct {
		Data       any `json:"data"`
		StringData any `json:"stringData"`
	}
	if json.Unmarshal(o.JSON, &secret) != nil {
		return nil
	}
	return append(leaves(secret.Data), leaves(secret.StringData)...)
}

// leaves lists the values in a tree: all that is no map or list, whatever the API
// server may think of it.
func leaves(tree any) []string {
	switch value := tree.(type) {
	case nil:
		return nil
	case map[string]any:
		var out []string
		for _, v := range value {
			out = append(out, leaves(v)...)
		}
		return out
	case []any:
		var out []string
		for _, v := range value {
			out = append(out, leaves(v)...)
		}
		return out
	case float64:
		return []string{fmt.Sprint(value), strconv.FormatFloat(value, 'f', -1, 64)}
	default:
		return []string{fmt.Sprint(value)}
	}
}

// maskText replaces secret values, in every form in which a message may quote them.
func maskText(text string, secrets []string) string {
	var forms []string
	add := func(form string) {
		if len(form) >= shortestSecret {
			forms = append(forms, form)
		}
	}
	quoted := func(value string) {
		add(value)
		add(strings.Trim(strconv.Quote(value), `"`))
		if encoded, err := json.Marshal(value); err == nil {
			add(string(encoded[1 : len(encoded)-1]))
		}
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); len(line) >= shortestLine {
				add(line)
			}
		}
	}
	for _, value := range secrets {
		if len(value) < shortestSecret {
			continue
		}
		quoted(value)
		add(base64.StdEncoding.EncodeToString([]byte(value)))
		if decoded, err := base64.StdEncoding.DecodeString(value); err == nil {
			quoted(string(decoded))
		}
	}
	// The longest first, so that no part of it is left.
	slices.SortFunc(forms, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, form := range slices.Compact(forms) {
		text = strings.ReplaceAll(text, form, masked)
	}
	return text
}

// maskedError is an error without the values that its text had. What kind of error it
// is can still be told; the error itself is not kept.
type maskedError struct {
	text string
	kind error
}

func (e *maskedError) Error() string { return e.text }

func (e *maskedError) Unwrap() error { return e.kind }

// mask takes secret values out of an error.
func mask(err error, secrets []string) error {
	if err == nil || len(secrets) == 0 {
		return err
	}
	out := &maskedError{text: maskText(err.Error(), secrets)}
	plain := &maskedError{text: out.text}
	var throttled *ThrottledError
	var immutable *ImmutableError
	switch {
	case errors.As(err, &throttled):
		out.kind = &ThrottledError{RetryAfter: throttled.RetryAfter, Err: plain}
	case errors.As(err, &immutable):
		fields := make([]string, len(immutable.Fields))
		for i, field := range immutable.Fields {
			fields[i] = maskText(field, secrets)
		}
		out.kind = &ImmutableError{Fields: fields, Err: plain}
	default:
		for _, kind := range []error{ErrUnavailable, ErrNotServed, ErrTransient, ErrNoNamespace} {
			if errors.Is(err, kind) {
				out.kind = kind
			}
		}
	}
	return out
}
