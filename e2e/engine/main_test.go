package engine_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/sandbox"
)

var (
	// plane is the control plane of all tests, and server its API server.
	plane  *sandbox.ControlPlane
	server *rest.Config
)

// sideBySide is how many parallel tests run at a time, unless -parallel says otherwise.
const sideBySide = 16

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(child(spec))
	}
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		// Those that run side by side mostly wait for the control plane.
		if err := flag.Set(parallel.Name, strconv.Itoa(sideBySide)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	plane, err = sandbox.StartControlPlane(context.Background(), sandbox.ControlPlaneConfig{
		WithoutNodes: true, Progress: os.Stderr,
	})
	if err != nil {
		return 1, fmt.Errorf("start the control plane: %w", err)
	}
	server = &rest.Config{
		Host: plane.Host, BearerToken: plane.Token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: plane.CAFile},
	}
	code = m.Run()
	if err := plane.Stop(); err != nil {
		return 1, fmt.Errorf("stop the control plane: %w", err)
	}
	if code != 0 {
		return code, nil
	}
	err = goleak.Find(
		// client-go keeps its idle connections for the life of the process.
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
	if err != nil {
		return 1, fmt.Errorf("goroutines are left: %w", err)
	}
	return 0, nil
}
