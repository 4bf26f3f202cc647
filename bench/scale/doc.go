// Package scale measures the program agentk itself, in a process of its own, with
// many objects: memory while it applies and when it is idle, what it costs to find
// that nothing has changed, what a restart costs, and how quickly drift is healed.
//
// In go the program's path, an API server and a set; out come figures. kas is played
// by a server of ours that sends sets from memory and reads the reports, so that
// nothing but agentk and the API server is measured.
package scale
