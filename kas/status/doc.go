// Package status keeps the newest status of every manifest project of every agent, and
// tells RoR and watchers.
//
// In come what kas saw in Git (Source), what agents report (Report), which streams are
// open (Connected, Disconnected) and which projects agents are configured to follow
// (Configuration); out go syncstatus messages to readers (Get, List), to watchers (Watch)
// and to RoR (Run). A status is put together when it is read, by the pure functions in
// state.go and render.go; nothing but the newest of each input is kept.
//
// Invariants:
//   - A project is SYNCED only when the agent says so of the very commit that the ref
//     names, no file of it is at fault, and every object is healthy.
//   - What comes in never waits for what goes out: a slow watcher, or RoR being away,
//     costs one mark per project, and then gets the newest status only.
//   - Once an agent's configuration is known, projects that it does not name are not kept,
//     and RoR is told that they are gone.
//   - Objects of a project are bounded by MaxObjects; projects without a stream are
//     forgotten, though not in RoR, after Config.KeepOffline.
//   - RoR gets the first change of a project at once and further ones after Config.Interval,
//     or longer where a post takes long. After RoR was away it gets everything anew. Changes
//     after Run's context has ended are not told: an agent that leaves because this kas stops
//     is not offline.
//   - Statuses handed out are not changed any more.
//
// # Replicas
//
// Of several kas that act as one, the one with the agent's stream speaks of a project: it
// tells RoR, and keeps a copy of each status that it tells (its own name, and the message,
// compressed) where all can read it. The others answer Get, List and Watch from the copies.
// Copies, rather than questions to who has the agent, because they outlive a replica that is
// killed, cost nothing where nobody asks, and need nothing that finding the agent does not
// need as well.
//
//   - A replica is silent about a project that it has no stream for, and for Config.Hold
//     about one whose agent has not reported, or whose repository was not read yet. So an agent that moves from one to the
//     other is never said to be away or to have said nothing.
//   - After Config.Grace without a stream it asks: where another one has the agent, or spoke
//     last and still has it, it leaves the project to that one. Else it speaks, by what it
//     knows or what was said last. Where it cannot ask it stays silent.
//   - Of the agents of a replica that is gone those that come to no other one within Config.Grace,
//     and a little longer where they are many, are said to be away by one of those that are
//     left: by turns, so that it is one as a rule, and another one where that is gone as well
//     (Orphaned). A replica that answers, but has lost what they share, is not gone.
//   - Of several that have a stream the one with the newest speaks: the others are dead and
//     their replicas do not know it yet. Who hears of a project from one with an older
//     stream, or none, tells again: so the last word is that of who knows.
//   - How a configuration fares, and that a project is gone, is told by each replica that the
//     agent is connected to, agents being several processes where they stand by: RoR may hear
//     it twice.
//   - Where the others cannot be reached, each answers by what it knows, and tells RoR what
//     its own agents say.
//
// Run owns all goroutines of the package.
package status
