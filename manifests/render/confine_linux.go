package render

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
)

// thisProgram is what runs, also after its file was replaced.
const thisProgram = "/proc/self/exe"

// confine bounds the memory of this process, beside what it has already, and has the
// kernel choose it first when memory gets short.
func confine(memory int64) error {
	if memory <= 0 {
		return nil
	}
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // a wish
	has, err := dataSize()
	if err != nil {
		return err
	}
	limit := uint64(has + memory)
	debug.SetMemoryLimit(memory / 4 * 3) // the collector works harder before it comes to the end
	if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("set RLIMIT_DATA: %w", err)
	}
	return nil
}

// dataSize is what RLIMIT_DATA counts, in bytes.
func dataSize() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read how much memory is taken: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) == 3 && string(fields[0]) == "VmData:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read how much memory is taken: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, nil
}
