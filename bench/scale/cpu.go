package scale

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in proc(5): sysconf(_SC_CLK_TCK) is 100 on Linux.
const tick = 10 * time.Millisecond

var errStat = errors.New("not as proc(5) has it")

// cpuTime of a process so far, user and system.
func cpuTime(pid int) (time.Duration, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/stat"
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("read CPU use: %w", err)
	}
	// The second field is a name in parentheses, which may hold anything.
	_, rest, ok := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("%s: %w", name, errStat)
	}
	user, userErr := strconv.ParseInt(fields[11], 10, 64)
	system, systemErr := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(userErr, systemErr); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return time.Duration(user+system) * tick, nil
}
