package replicas

import "github.com/redis/rueidis"

// claimScript begins the hash of this replica's agents anew. Its field "owner" says which
// process wrote it; agents' fields are numbers. It returns what a process had there that was
// another one. KEYS: the hash. ARGV: the owner, EntryTTL.
var claimScript = rueidis.NewLuaScript(`
local before = {}
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then before = redis.call('HGETALL', KEYS[1]) end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return before`)

// aliveScript says that this replica is alive, and forgets those that are not. It returns who
// owns its hash, how long that is, who is alive, and whom it has forgotten. What is said to
// live for longer than twice AliveTTL comes from before Redis's clock was put back. KEYS: the
// sorted set of replicas, the hash. ARGV: own URL, AliveTTL, EntryTTL.
var aliveScript = rueidis.NewLuaScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local gone = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 2 * ARGV[2], '+inf')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {redis.call('HGET', KEYS[2], 'owner'), redis.call('HLEN', KEYS[2]), redis.call('ZRANGE', KEYS[1], 0, -1), gone}`)

// farewellScript takes back that this replica is there, unless another has its URL by now. What
// it had is left to expire, for the others to look who of its agents does not come to them.
// KEYS: the sorted set of replicas, the hash. ARGV: own URL, the owner, the channel, the message.
var farewellScript = rueidis.NewLuaScript(`
if redis.call('HGET', KEYS[2], 'owner') ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1`)

// leaseScript takes or renews leases. For each it returns 0 where it is the caller's, else
// after how many milliseconds it may be free. KEYS: the leases. ARGV: LeaseTTL, then a token
// for each.
var leaseScript = rueidis.NewLuaScript(`
local answer = {}
for i, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if not holder or holder == ARGV[i + 1] then
    redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1])
    answer[i] = 0
  else
    answer[i] = math.max(redis.call('PTTL', key), 1)
  end
end
return answer`)

// releaseScript gives up leases that are the caller's, and tells the others. KEYS: the leases.
// ARGV: the channel, the message, then a token for each.
var releaseScript = rueidis.NewLuaScript(`
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[i + 2] then redis.call('DEL', key) end
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1`)

// putScript sets fields and when all of the key expires. KEYS: the hash. ARGV: milliseconds,
// then fields and values.
var putScript = rueidis.NewLuaScript(`
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1`)

// limitScript is the generic cell rate algorithm: what is kept is when the bucket will be full.
// It returns 0 where the event is allowed, else after how many microseconds it will be. KEYS:
// the bucket. ARGV: microseconds that one event costs, and that the bucket holds.
var limitScript = rueidis.NewLuaScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local full = tonumber(redis.call('GET', KEYS[1])) or now
full = math.min(math.max(full, now), now + ARGV[2]) + ARGV[1]
local wait = full - now - ARGV[2]
if wait > 0 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
return 0`)
