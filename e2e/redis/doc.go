// Package redis tries what several kas share, kas/replicas, on a real Redis: several replicas
// in one process, and what becomes of them when Redis stops, hangs, forgets, or is cut off.
package redis
