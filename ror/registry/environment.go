package registry

import (
	"crypto/sha256"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// Environment is what a job deploys to.
type Environment struct {
	Name string
	// Slug is the name as labels and host names may hold it.
	Slug string
	// Tier is one of GitLab's: production, staging, testing, development, other.
	Tier string
}

var tiers = []string{"production", "staging", "testing", "development", "other"}

func newEnvironment(name, tier string) (Environment, error) {
	switch {
	case name == "" && tier == "":
		return Environment{}, nil
	case name == "":
		return Environment{}, &InvalidError{"environment", "is missing, and tier is about it"}
	case len(name) > 255:
		return Environment{}, &InvalidError{"environment", "is too long (maximum is 255 characters)"}
	case tier == "":
		tier = guessTier(name)
	case !slices.Contains(tiers, tier):
		return Environment{}, &InvalidError{"tier", "is not included in the list: " + strings.Join(tiers, ", ")}
	}
	return Environment{Name: name, Slug: environmentSlug(name), Tier: tier}, nil
}

// tierGuesses are GitLab's, in their order.
var tierGuesses = []struct {
	name *regexp.Regexp
	tier string
}{
	{regexp.MustCompile(`(?i)dev|review|trunk`), "development"},
	{regexp.MustCompile(`(?i)test|tst|int|ac(ce|)pt|qa|qc|control|quality`), "testing"},
	{regexp.MustCompile(`(?i)st(a|)g|mod(e|)l|pre|demo|non`), "staging"},
	{regexp.MustCompile(`(?i)pr(o|)d|live`), "production"},
}

func guessTier(name string) string {
	for _, guess := range tierGuesses {
		if guess.name.MatchString(name) {
			return guess.tier
		}
	}
	return "other"
}

const (
	maxSlug    = 24
	slugSuffix = 6
)

var (
	notInSlug = regexp.MustCompile(`[^a-z0-9]+`)
	dashes    = regexp.MustCompile(`-+`)
)

// environmentSlug makes a slug as GitLab does: a name that had to be changed gets a suffix
// by which it differs from others that became the same.
func environmentSlug(name string) string {
	slug := notInSlug.ReplaceAllString(strings.ToLower(name), "-")
	if slug == "" || slug[0] < 'a' || slug[0] > 'z' {
		slug = dashes.ReplaceAllString("env-"+slug, "-")
	}
	if slug == name && len(slug) <= maxSlug {
		return strings.TrimSuffix(slug, "-")
	}
	sum := sha256.Sum256([]byte(name))
	suffix := new(big.Int).SetBytes(sum[:]).Text(36)
	slug = slug[:min(len(slug), maxSlug-slugSuffix-1)]
	if !strings.HasSuffix(slug, "-") {
		slug += "-"
	}
	return slug + suffix[max(0, len(suffix)-slugSuffix):]
}
