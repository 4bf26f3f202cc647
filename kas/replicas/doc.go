// Package replicas is what several kas share, on Redis: who has which agent, messages to one
// another, leases, small values, and limits.
//
// In comes what this replica has (Here); out goes what the others have (Where, Entries,
// Others), and whom one had that is gone (Orphans). The rest is for its siblings in kas, which know it by small interfaces of their own:
// a bus (Tell, Hear), leases (Lease), values that expire (Put, Get, Remove), and token buckets
// that all replicas fill from together (Limiter). Without Redis configured a Replicas is alone:
// everything works, and nobody else is there.
//
// # Sessions
//
// A session is one connection to Redis and what hangs on it: a second connection that is
// subscribed, this replica's claim in the registry, renewal of leases. It begins when Redis
// lets in and takes writes, and ends with the first sign that it does not: an error of the
// connection, no answer within Redis.WriteTimeout, or an error reply that means "not now"
// (LOADING, READONLY, OOM, a password that is wrong, ...). Then Redis is away, and a new
// session is tried, at first at once and then every second or so.
//
// # Invariants
//
//   - With Redis away every call returns at once, with ErrAway where it needs Redis. Nothing is
//     queued for later but what this replica has.
//   - When a session begins, this replica announces everything anew, in bulk, and whoever
//     listens learns that it may have missed something. So whatever Redis has lost is healed;
//     and every period the size of what should be there is compared.
//   - A replica that is killed is no longer used within AliveTTL and a period; what it said
//     expires within EntryTTL. One that ends takes back that it is there. The living ones learn
//     of both, and which agents were there.
//   - Where answers from memory until something changes; then the channel that came with the
//     answer is closed. Nothing is asked of Redis again and again.
//   - A lease is Mine until shortly before Redis would give it to somebody else, by this
//     process's monotonic clock from before the renewal was sent. Times that replicas share are
//     of Redis's clock, never of their own.
//   - Everything is bounded: queues by messages and bytes (what does not fit is lost, and who
//     listens is told), cached answers and buckets by number.
//   - Messages only make this replica look again; what it then finds in Redis is believed. So
//     nobody but kas may write there.
//
// # Goroutines
//
// Run owns all: one that calls listeners, one for sessions; and in each session one each that
// registers, publishes, subscribes and renews leases. Locks are never held while Redis is
// asked or a listener is called.
//
// The keys and channels are listed in docs/adr/0011-what-is-in-redis.md.
package replicas
