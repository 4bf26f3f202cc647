package redis

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/sandbox"
)

func TestSentinel_LeadsToTheNewMaster(t *testing.T) {
	t.Parallel()
	first := start(t, "--repl-diskless-sync-delay", "0")
	second := start(t, replicaOf(first)...)
	sentinel := startSentinel(t, first)
	cfg := watchful(sentinel.Address, "grpc://a:1")
	cfg.Redis.MasterName = "shared"
	p := run(t, cfg)
	p.up(t, 1)
	p.Here(7, []byte("seven"))

	s, c := reach(t, sentinel), reach(t, second)
	testkit.Eventually(t, func() error { // it must know the replica first
		return s.Do(t.Context(), s.B().Arbitrary("SENTINEL", "FAILOVER", "shared").Build()).Error()
	})
	testkit.Eventually(t, func() error {
		entry, err := c.Do(t.Context(), c.B().Hget().Key("gitlab-kas:agents:grpc://a:1").Field("7").Build()).ToString()
		role, roleErr := c.Do(t.Context(), c.B().Role().Build()).ToArray()
		if err != nil || roleErr != nil || entry != "seven" || !isMaster(role) {
			return fmt.Errorf("the new master has %q, %w, %w", entry, err, roleErr)
		}
		return nil
	})
	first.Process.Kill()
	testkit.Eventually(t, func() error { return p.Remove(t.Context(), "no such key") })
}

func isMaster(role []rueidis.RedisMessage) bool {
	name, err := role[0].ToString()
	return err == nil && name == "master"
}

func replicaOf(master *sandbox.Redis) []string {
	host, port, _ := net.SplitHostPort(master.Address)
	return []string{"--replicaof", host, port}
}

// startSentinel runs one Sentinel that watches a master called shared.
func startSentinel(t *testing.T, master *sandbox.Redis) *sandbox.Redis {
	t.Helper()
	host, port, err := net.SplitHostPort(master.Address)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "sentinel.conf") // it is written to
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "sentinel monitor shared %s %s 1\n", host, port), 0o600))
	return startWith(t, sandbox.RedisConfig{File: file, Args: []string{"--sentinel"}})
}
