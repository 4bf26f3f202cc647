package harness

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
)

// DialAPI connects to kas's API for RoR at an address, with the secret of the Env. The
// connection is closed when the test ends.
func (f *Fixture) DialAPI(address string) *grpc.ClientConn {
	f.T.Helper()
	secret, err := jwtauth.LoadSecret(f.Stack.KasSecretFile)
	if err != nil {
		f.T.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(grpctool.TokenCredentials{
			Token:     jwtauth.NewSigner(secret, jwtauth.IssuerGitlab, jwtauth.AudienceKas, clock.RealClock{}).Token,
			Plaintext: true,
		}))
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() { _ = conn.Close() })
	return conn
}
