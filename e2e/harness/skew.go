package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kas-agentk/kas/sandbox"
)

// SkewEnv names the variable that, set to "1", lets tests build an agentk whose clock is
// wrong: everything it stands on is built anew for that, which takes minutes once.
const SkewEnv = "E2E_SKEW"

// skewSource tells package time how wrong it is.
const skewSource = `package time

import "syscall"

var skew = func() (seconds int64) {
	text, _ := syscall.Getenv("KAS_E2E_CLOCK_SKEW")
	negative := len(text) > 0 && text[0] == '-'
	for _, c := range text {
		if c != '-' {
			seconds = 10*seconds + int64(c-'0')
		}
	}
	if negative {
		return -seconds
	}
	return seconds
}()
`

// SkewedAgentk is the path of an agentk whose clock is ahead by that much, or behind. It
// skips the test unless $E2E_SKEW is "1".
func (f *Fixture) SkewedAgentk(ahead time.Duration) string {
	f.T.Helper()
	if os.Getenv(SkewEnv) != "1" {
		f.T.Skipf("%s is not 1", SkewEnv)
	}
	program, err := buildSkewed(f.T.Context())
	if err != nil {
		f.T.Fatal(err)
	}
	script := filepath.Join(f.T.TempDir(), "agentk")
	seconds := strconv.Itoa(int(ahead / time.Second))
	content := "#!/bin/sh\nKAS_E2E_CLOCK_SKEW=" + seconds + " exec " + program + " \"$@\"\n"
	if err := os.WriteFile(script, []byte(content), 0o700); err != nil {
		f.T.Fatal(err)
	}
	return script
}

// buildSkewed builds agentk with another package time.
func buildSkewed(ctx context.Context) (string, error) {
	source, err := sandbox.Source(ctx)
	if err != nil {
		return "", fmt.Errorf("find the sources: %w", err)
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find Go: %w", err)
	}
	dir := filepath.Join(source, ".build", "e2e-skew")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	now, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	const reads = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(string(now), reads) {
		return "", fmt.Errorf("%s does not read the clock as expected", original)
	}
	replace := map[string]string{}
	for path, content := range map[string]string{
		original: strings.Replace(string(now), reads, reads+"\tsec += skew\n", 1),
		filepath.Join(filepath.Dir(original), "skew.go"): skewSource,
	} {
		replace[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(replace[path], []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlayFile, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "agentk")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlayFile, "-o", program, "./cmd/agentk")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build agentk: %w\n%s", err, out)
	}
	return program, nil
}
