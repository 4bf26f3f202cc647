package render

import (
	"context"
	"encoding/gob"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	// apartEnv has this package's tests render in processes of their own.
	apartEnv = "RENDER_TEST_APART"
	memory   = 256 << 20
)

// apart starts a process that serves.
func apart(ctx context.Context) *exec.Cmd {
	cmd := Command()(ctx)
	cmd.Env = append(cmd.Env, childEnv+"=1")
	return cmd
}

func inProcesses(c *Config) { c.Command, c.Memory, c.Timeout = apart, memory, time.Minute }

func TestApart_AllOfThisHoldsInAProcessOfItsOwn(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), thisProgram, "-test.run", "^(TestRender_|TestValid_)", "-test.v")
	cmd.Env = append(os.Environ(), apartEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRender_GivesUpInTime") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What a template makes the library hold would take all of kas's memory with it.
func TestApart_MemoryIsBounded(t *testing.T) {
	for name, template := range map[string]string{
		"one list":             "{{ range until 1000000000 }}a{{ end }}",
		"a text that doubles":  "{{ $a := `0123456789abcdef` }}{{ range until 40 }}{{ $a = printf `%s%s` $a $a }}{{ end }}{{ len $a }}",
		"output without end":   "{{ range until 100000 }}{{ range until 100000 }}0123456789abcdef{{ end }}{{ end }}",
		"a template in itself": "{{ define `x` }}{{ include `y` . }}{{ end }}{{ define `y` }}{{ $a := until 100000 }}{{ range until 100 }}{{ include `x` $a }}{{ end }}{{ end }}{{ include `x` . }}",
	} {
		t.Run(name, func(t *testing.T) {
			files := repository{"Chart.yaml": chartYAML, "templates/a.yaml": template}
			result, err := renderer(inProcesses).Render(t.Context(), helm(t, Chart{Dir: ".", Release: "x"}), files.tree(), files.load)
			if err != nil {
				t.Fatal(err)
			}
			got := told(&result)
			bounded := len(got) == 1 && (strings.HasPrefix(got[0], "Chart.yaml: rendering takes more memory than the limit of 256 MiB") ||
				strings.Contains(got[0], "rendering template has a nested reference name"))
			if !bounded {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestApart_IsKilledWhenItIsGivenUp(t *testing.T) {
	files := repository{"Chart.yaml": chartYAML, "templates/a.yaml": "{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}"}
	var cmd *exec.Cmd
	r := renderer(inProcesses, func(c *Config) {
		c.Timeout, c.Parallel = time.Second, 1
		c.Command = func(ctx context.Context) *exec.Cmd {
			cmd = apart(ctx)
			return cmd
		}
	})
	entry := helm(t, Chart{Dir: ".", Release: "x"})
	result, err := r.Render(t.Context(), entry, files.tree(), files.load)
	if got := told(&result); err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "Chart.yaml: rendering takes longer than the limit of 1s") {
		t.Errorf("got %q, %v", got, err)
	}
	r.slots <- struct{}{} // there is room again: it has ended
	if cmd.ProcessState == nil || cmd.ProcessState.Success() {
		t.Errorf("the process is %v", cmd.ProcessState)
	}
}

func TestApart_ThatCannotStartIsNoMistakeOfTheRepository(t *testing.T) {
	files := repository{"Chart.yaml": chartYAML}
	_, err := renderer(func(c *Config) {
		c.Command = func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, "/none") }
	}).Render(t.Context(), helm(t, Chart{Dir: ".", Release: "x"}), files.tree(), files.load)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestServe_EndsWithItsParent(t *testing.T) {
	in, parentsIn := io.Pipe()
	parentsOut, out := io.Pipe()
	orphaned, served := make(chan struct{}), make(chan error, 1)
	go func() { served <- Serve(in, out, func() { close(orphaned) }) }()
	_ = parentsIn.Close() // before it has said anything
	if err := <-served; err == nil {
		t.Error("it has nothing to do, and does not say so")
	}
	_ = parentsOut.Close()

	ctx, cancel := context.WithCancel(t.Context())
	cmd := apart(ctx)
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cancel()
	files := repository{"Chart.yaml": chartYAML, "templates/a.yaml": "{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}"}
	p := &parent{out: gob.NewEncoder(stdin), in: gob.NewDecoder(stdout), load: files.load, limit: 1 << 20}
	j := jobOf(helm(t, Chart{Dir: ".", Release: "x"}), files.tree(), renderer(inProcesses).config)
	var q question
	if err := errors.Join(p.out.Encode(&j), p.in.Decode(&q)); err != nil {
		t.Fatal(err)
	}
	if err := p.hand(ctx, q.Need); err != nil {
		t.Fatal(err)
	}
	_ = stdin.Close() // while it renders
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("it ended with %v", err)
	}
}

func TestFate_SaysWhyAChildEnded(t *testing.T) {
	r := renderer(inProcesses)
	for last, want := range map[string]string{
		"fatal error: runtime: out of memory\n":                                           "rendering takes more memory than the limit of 256 MiB:",
		"ThreadSanitizer: failed to allocate":                                             "rendering takes more memory than the limit of 256 MiB:",
		"runtime/cgo: pthread_create failed: Resource temporarily unavailable\nSIGABRT\n": "rendering takes more memory than the limit of 256 MiB, or kas has more threads",
		"runtime: failed to create new OS thread (have 5 already; errno=11)\n":            "rendering takes more memory than the limit of 256 MiB, or kas has more threads",
		"runtime: goroutine stack exceeds 1000000000-byte limit\n":                        "rendering nests too deeply",
		"panic: oh\n\ngoroutine 1\n":                                                      `the process that renders ended before it was done (EOF, after it said "panic: oh")`,
	} {
		if got := r.fate(last, io.EOF); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "make it simpler, or render it in a CI job and commit the result") {
			t.Errorf("after %q: %s", last, got)
		}
	}
}
