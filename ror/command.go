package ror

import (
	"github.com/spf13/cobra"

	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/program"
)

// Main runs the command as the process and returns its exit status.
func Main() int { return program.Main(NewCommand()) }

// NewCommand returns the command "ror".
func NewCommand() *cobra.Command {
	cfg := DefaultConfig()
	log := logging.DefaultOptions()
	cmd := &cobra.Command{
		Use:   "ror",
		Short: "Stand in for GitLab Rails",
		Long: `ror stands in for GitLab Rails: it keeps projects and agents, serves Git over HTTP
through Gitaly, answers kas on GitLab's internal API, and shows how far every
cluster is. It starts whether or not Gitaly and kas are up.`,
		Example: `  ror --external-url=http://127.0.0.1:3000 --database=ror.db \
      --gitaly-address=tcp://127.0.0.1:8075 --gitaly-token-file=gitaly-token \
      --kas-api-address=127.0.0.1:8153 --kas-secret-file=kas-secret \
      --gitlab-shell-secret-file=shell-secret \
      --bootstrap-user=root --bootstrap-password-file=password`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.verify(); err != nil {
				return program.Usage(err)
			}
			logger, _, err := log.New()
			if err != nil {
				return program.Usage(err)
			}
			return Run(cmd.Context(), cfg, logger)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.ListenAddress, "listen-address", cfg.ListenAddress, "`HOST:PORT` to serve on; port 0 takes a free one")
	f.StringVar(&cfg.ObservabilityListenAddress, "observability-listen-address", "", "`HOST:PORT` to serve metrics, probes and profiles on, for operators alone; port 0 takes a free one, empty: nowhere")
	f.StringVar(&cfg.ExternalURL, "external-url", cfg.ExternalURL, "`URL` at which browsers and git reach this server (required)")
	f.StringVar(&cfg.Database, "database", cfg.Database, "`FILE` of the database, created where it is missing")
	f.StringVar(&cfg.GitalyAddress, "gitaly-address", cfg.GitalyAddress, "`URL` of Gitaly, for this server and for kas: tcp://HOST:PORT, tls://HOST:PORT or unix:PATH (required)")
	f.StringVar(&cfg.GitalyTokenFile, "gitaly-token-file", cfg.GitalyTokenFile, "`FILE` with Gitaly's token (required)")
	f.StringVar(&cfg.GitalyStorage, "gitaly-storage", cfg.GitalyStorage, "`NAME` of Gitaly's storage for new repositories")
	f.StringVar(&cfg.KasAPIAddress, "kas-api-address", cfg.KasAPIAddress, "`HOST:PORT` of kas's API for this server")
	f.StringVar(&cfg.KasAgentAddress, "kas-agent-address", cfg.KasAgentAddress, "`URL` that agentk is started with, shown to people: grpc[s]://HOST:PORT")
	f.StringVar(&cfg.KasProxyURL, "kas-proxy-url", cfg.KasProxyURL, "`URL` at which people reach kas's Kubernetes API proxy, shown to them: http[s]://HOST[:PORT]/k8s-proxy/")
	f.StringVar(&cfg.KasProxyCAFile, "kas-proxy-ca-file", cfg.KasProxyCAFile, "PEM `FILE` of who vouches for the certificate of --kas-proxy-url, where people's systems do not know")
	f.StringVar(&cfg.KasSecretFile, "kas-secret-file", cfg.KasSecretFile, "`FILE` with the base64 of the secret shared with kas (required)")
	f.StringVar(&cfg.GitlabShellSecretFile, "gitlab-shell-secret-file", cfg.GitlabShellSecretFile, "`FILE` with the secret shared with Gitaly's hooks (required)")
	f.StringVar(&cfg.Bootstrap.User, "bootstrap-user", cfg.Bootstrap.User, "`NAME` of the first user, an admin, created where missing")
	f.StringVar(&cfg.Bootstrap.PasswordFile, "bootstrap-password-file", cfg.Bootstrap.PasswordFile, "`FILE` with the first user's password")
	f.StringVar(&cfg.Bootstrap.TokenFile, "bootstrap-token-file", cfg.Bootstrap.TokenFile, "`FILE` with a personal access token for the first user")
	cfg.Tracing.AddFlags(f)
	log.AddFlags(f)
	return cmd
}
