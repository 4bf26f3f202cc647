// Package stack runs our own programs, ror, kas and agentk, as processes beside the
// sandbox's real parts. The demo and the end-to-end tests share it, so that what a
// person sees is what is tested.
//
// In goes where Gitaly and the programs are; out come processes that can be
// stopped, killed and started again one by one, on the same ports and with the same
// data, and a Client that speaks ror's public REST.
//
// Everything a Stack writes is in its directory: secrets, configuration, ror's
// database, logs. It starts no goroutine of its own.
package stack
