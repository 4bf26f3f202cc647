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
// Run owns all goroutines of the package.
package status
