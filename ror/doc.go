// Package ror stands in for GitLab Rails: it keeps users, projects and agents, serves
// Git over HTTP through Gitaly, answers kas and Gitaly's hooks on GitLab's internal
// API, and shows people how far their clusters are. kas cannot tell it from GitLab.
//
// In go a Config and the files that it names; Run serves until its context ends, then
// lets requests in flight finish. Gitaly and kas may come and go meanwhile: what needs
// them says so, the rest works on.
//
// The rooms: registry keeps everything in a database; gitaly and kasapi speak to the
// two neighbours; hosting makes projects, overview describes agents, control carries
// commands to clusters, clusters looks into them, stream keeps answers open that go on
// and on; internalapi, rest, githttp and page are the four ways in. This
// package reads the configuration and wires them.
package ror
