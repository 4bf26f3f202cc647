package contender

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// cpuTime of this process so far, user and system.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// resetPeak has the peak of this process's memory counted from now on.
func resetPeak() error {
	// proc(5): 5 resets the peak resident set size.
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o200); err != nil {
		return fmt.Errorf("reset the peak of memory: %w", err)
	}
	return nil
}

var errNoField = errors.New("no such field")

// Memory returns a field of /proc/PID/status, such as VmHWM (peak) or VmRSS (now), in bytes.
func Memory(pid int, field string) (int64, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/status"
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("read memory use: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		words := bytes.Fields(lines.Bytes())
		if len(words) < 2 || string(words[0]) != field+":" {
			continue
		}
		kib, err := strconv.ParseInt(string(words[1]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %s: %w", name, field, err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("%s: %s: %w", name, field, errNoField)
}
