package diagnose

import (
	"fmt"
	"strings"
	"time"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// words is a duration for people: two figures that matter.
func words(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return strings.Replace(d.Round(time.Second).String(), "m0s", "m", 1)
	case d < 48*time.Hour:
		return strings.Replace(d.Round(time.Minute).String(), "m0s", "m", 1)
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

// ago is how long ago something was.
func (j *judgement) ago(at time.Time) string { return words(j.now.Sub(at)) }

// stamp is a moment.
func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// short is a commit ID as people write it.
func short(commit string) string { return commit[:min(len(commit), 8)] }

// stateName spells STATE_SYNCED "Synced".
func stateName(s syncstatus.State) string {
	name := strings.ToLower(strings.TrimPrefix(s.String(), "STATE_"))
	return strings.ToUpper(name[:1]) + name[1:]
}

func fileError(e *syncstatus.FileError) string {
	switch {
	case e.GetPath() == "":
		return e.GetMessage()
	case e.GetLine() == 0:
		return e.GetPath() + ": " + e.GetMessage()
	default:
		return fmt.Sprintf("%s:%d: %s", e.GetPath(), e.GetLine(), e.GetMessage())
	}
}
