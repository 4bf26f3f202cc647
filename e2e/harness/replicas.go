package harness

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/ports"
)

// replicaWait is how long replicas wait for Redis: short, so that tests do not wait for it.
const replicaWait = 500 * time.Millisecond

// Replicas are several kas of the fixture's own that act as one, and their Redis. They
// believe RoR for an hour, and poll as seldom as they are told to.
type Replicas struct {
	Redis *sandbox.Redis
	Kas   []*Kas
	// Between are the networks by which the others reach each of them.
	Between []*Relay

	f *Fixture
}

// NewReplicas starts so many kas and a Redis, which end with the test.
func (f *Fixture) NewReplicas(number int, pollPeriod time.Duration) *Replicas {
	f.T.Helper()
	r := &Replicas{f: f}
	var err error
	if r.Redis, err = sandbox.StartRedis(f.T.Context(), sandbox.RedisConfig{Dir: filepath.Join(f.Dir, f.Name, "redis")}); err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() {
		if err := r.Redis.Stop(); err != nil {
			f.T.Error(err)
		}
	})
	f.guards.watch(r.Redis.Process)
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it cannot fail
	secretFile := filepath.Join(f.Dir, f.Name, "private-secret")
	if err := os.WriteFile(secretFile, []byte(base64.StdEncoding.EncodeToString(secret)), 0o600); err != nil {
		f.T.Fatal(err)
	}
	chosen, err := ports.Open("")
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() { _ = chosen.Close() })
	for i := range number {
		private, err := chosen.Address(fmt.Sprint("private-", i))
		if err != nil {
			f.T.Fatal(err)
		}
		between := f.NewRelay("grpc://" + private)
		r.Between = append(r.Between, between)
		r.Kas = append(r.Kas, f.prepareKas(pollPeriod, func(config string) string {
			believing := strings.ReplaceAll(config, "info_cache_ttl: "+infoCacheTTL.String(), "info_cache_ttl: 1h")
			if believing == config {
				f.T.Fatalf("how long a token is believed is not in the configuration:\n%s", config)
			}
			return believing + fmt.Sprintf(replicaConfig,
				r.Redis.Address, replicaWait, replicaWait, private, secretFile, between.Address)
		}))
	}
	g, ctx := errgroup.WithContext(f.T.Context())
	for _, kas := range r.Kas {
		g.Go(func() error { return kas.Start(ctx) })
	}
	if err := g.Wait(); err != nil {
		f.T.Fatal(err)
	}
	return r
}

const replicaConfig = `
redis:
  server:
    address: %s
  dial_timeout: %s
  write_timeout: %s
private_api:
  listen:
    address: %s
    authentication_secret_file: %s
  own_url: %s
`

// Addresses are what agents may dial, from the first on and around.
func (r *Replicas) Addresses(first int) []string {
	var all []string
	for i := range r.Kas {
		all = append(all, r.Kas[(first+i)%len(r.Kas)].AgentAddress)
	}
	return all
}

// Pushed tells one of them that the fixture's manifest project was pushed to.
func (r *Replicas) Pushed(f *Fixture, kas int) {
	f.T.Helper()
	ctx, cancel := context.WithTimeout(f.T.Context(), AnswerTimeout)
	defer cancel()
	client := railsrpc.NewNotificationsClient(f.DialAPI(r.Kas[kas].APIAddress))
	_, err := client.GitPushEvent(ctx, &railsrpc.GitPushEventRequest{Project: &railsrpc.Project{Id: f.Manifests.ID}})
	if err != nil {
		f.T.Fatal(err)
	}
}

// Status asks one of them how the fixture's manifest project fares.
func (r *Replicas) Status(f *Fixture, kas int) (*syncstatus.ProjectStatus, error) {
	f.T.Helper()
	ctx, cancel := context.WithTimeout(f.T.Context(), AnswerTimeout)
	defer cancel()
	client := railsrpc.NewSyncStatusClient(f.DialAPI(r.Kas[kas].APIAddress))
	response, err := client.Get(ctx, &railsrpc.GetRequest{AgentId: f.Agent.ID, ProjectId: f.Manifests.Path})
	return response.GetStatus(), err
}

// Connected asks one of them which processes of the fixture's agent are connected.
func (r *Replicas) Connected(f *Fixture, kas int) ([]*railsrpc.ConnectedAgent, error) {
	f.T.Helper()
	ctx, cancel := context.WithTimeout(f.T.Context(), AnswerTimeout)
	defer cancel()
	client := railsrpc.NewAgentTrackerClient(f.DialAPI(r.Kas[kas].APIAddress))
	response, err := client.GetConnectedAgents(ctx, &railsrpc.GetConnectedAgentsRequest{AgentIds: []int64{f.Agent.ID}})
	return response.GetAgents(), err
}

// WaitStatus waits until one of them says that of the fixture's manifest project.
func (r *Replicas) WaitStatus(f *Fixture, kas int, check func(*syncstatus.ProjectStatus) error) {
	f.T.Helper()
	f.Eventually(func() error {
		s, err := r.Status(f, kas)
		if err != nil {
			return err
		}
		if err := check(s); err != nil {
			return fmt.Errorf("%w\nkas %d says:\n%s", err, kas, Summary(s))
		}
		return nil
	})
}
