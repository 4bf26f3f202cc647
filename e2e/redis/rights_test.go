package redis

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/replicas"
)

func TestRedis_NeedsNoRightsButThoseThatAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "adr", "0011-what-is-in-redis.md"))
	require.NoError(t, err)
	_, list, found := strings.Cut(string(page), "The user of Redis needs")
	require.True(t, found)
	acl := []string{"--user", "kas", "on", ">pass", "~gitlab-kas:*", "&gitlab-kas:*", "-@all"}
	for _, command := range regexp.MustCompile("`([A-Z]+)`").FindAllStringSubmatch(list, -1) {
		acl = append(acl, "+"+strings.ToLower(command[1]))
	}
	require.Greater(t, len(acl), 20)
	redis := start(t, acl...)
	var all []*replica
	for _, url := range []string{"grpc://a:1", "grpc://b:1"} {
		cfg := config(redis.Address, url)
		cfg.Redis.Username, cfg.Redis.Password, cfg.Redis.Database = "kas", "pass", 1
		all = append(all, run(t, cfg))
	}
	a, b := all[0], all[1]
	a.seesAllOf(t, []string{"grpc://a:1", "grpc://b:1"})
	b.Here(7, []byte("seven"))
	a.finds(t, 7, "grpc://b:1")
	entriesAre(t, a, nil, "7 grpc://b:1 seven")
	entriesAre(t, a, []int64{7}, "7 grpc://b:1 seven")
	b.Here(7, nil)
	a.finds(t, 7)

	var e ear
	stop := b.Hear("topic", e.hear)
	e.has(t, "-")
	a.Tell("topic", []byte("message"))
	e.has(t, "- message")
	stop()
	lease, end := hold(t, a, "repo")
	becomes(t, lease, replicas.Mine)
	end()
	require.NoError(t, a.Put(t.Context(), "k", map[string][]byte{"f": []byte("v")}, time.Minute))
	require.NoError(t, a.Remove(t.Context(), "k", "f"))
	require.NoError(t, a.Remove(t.Context(), "k"))
	_, err = b.Get(t.Context(), "k")
	require.NoError(t, err)
	limiters, tries := []*replicas.Limiter{a.Limiter("l", 0.001, 1), b.Limiter("l", 0.001, 1)}, 0
	testkit.Eventually(t, func() error { // where Redis takes too long, each decides for itself
		tries++
		ok, _ := limiters[0].Allow(t.Context(), fmt.Sprint("k", tries))
		require.True(t, ok)
		if ok, _ := limiters[1].Allow(t.Context(), fmt.Sprint("k", tries)); ok {
			return errors.New("they do not share a bucket")
		}
		return nil
	})
	a.end()
	b.seesAllOf(t, []string{"grpc://b:1"})
	for _, p := range all {
		require.Zero(t, logged(p, "Redis is away"))
	}
}
