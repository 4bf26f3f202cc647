// Command bundle stands in for the Ruby workers of Gitaly v14, of whose services the
// sandbox uses none.
//
// Gitaly starts each worker as
//
//	bundle exec bin/ruby-cd WORKING-DIRECTORY PROGRAM GITALY-PID SOCKET
//
// and asks it over the socket whether it is well. It cannot do without: seven minutes
// after its start, Gitaly sends SIGTERM to a worker that is not well, and where there
// never was one, to process 0, which means itself and its whole process group.
//
// So this serves gRPC health on the socket, and ends when Gitaly does.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// orphanCheck is how often it looks whether Gitaly is still there.
const orphanCheck = time.Second

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	const arguments = 7
	if len(args) != arguments {
		return errors.New("usage: bundle exec bin/ruby-cd WORKING-DIRECTORY PROGRAM GITALY-PID SOCKET")
	}
	parent, err := strconv.Atoi(args[5])
	if err != nil {
		return fmt.Errorf("process ID of Gitaly: %w", err)
	}
	socket := args[6]
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of an earlier run: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go func() {
		for os.Getppid() == parent {
			<-time.After(orphanCheck)
		}
		server.Stop()
	}()
	return server.Serve(listener)
}
