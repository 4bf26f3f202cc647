package kasctl

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kas-agentk/kas/internal/program"
)

// proxyCAEnv names the variable that --certificate-authority overrides.
const proxyCAEnv = "KAS_PROXY_CA_FILE"

// kubeconfigOptions of the command kubeconfig.
type kubeconfigOptions struct {
	*options
	file      string
	merge     bool
	force     bool
	keep      bool
	proxyURL  string
	authority string
	tokens    proxyTokenOptions
}

func (o *options) kubeconfigCommand() *cobra.Command {
	k := &kubeconfigOptions{options: o}
	cmd := &cobra.Command{
		Use:   "kubeconfig AGENT",
		Short: "Write a kubeconfig by which kubectl reaches a cluster through kas",
		Long: `kubeconfig writes a kubeconfig by which kubectl, and whatever else reads one, reaches the
cluster of an agent through kas's Kubernetes API proxy. user_access of the agent's
configuration says who may, and as whom.

AGENT is an agent's name, its number, or CONFIG-PROJECT:NAME where names are ambiguous.

The kubeconfig holds a personal access token, which needs the scope k8s_proxy: kasctl's own,
unless --create-token or --proxy-token-file says otherwise. Whoever reads the file has the
token, so that one which is good for nothing else is better.

It goes to standard output, to a new file with --output, or with --merge into a kubeconfig
that is there: $KUBECONFIG or ~/.kube/config, or the one that --output names.`,
		Example: `  kasctl kubeconfig production --create-token --output production.kubeconfig
  kubectl --kubeconfig production.kubeconfig get pods

  kasctl kubeconfig production --create-token --merge`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := k.check(); err != nil {
				return program.Usage(err)
			}
			c, err := k.client()
			if err != nil {
				return err
			}
			return k.run(cmd.Context(), c, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&k.file, "output", "o", "", "`FILE` to write, - for standard output")
	flags.BoolVar(&k.merge, "merge", false, "add to a kubeconfig that is there, and leave what else is in it")
	flags.BoolVar(&k.force, "force", false, "replace a file that is there; with --merge, entries of the same names")
	flags.BoolVar(&k.keep, "keep-context", false, "with --merge: leave the current context")
	flags.BoolVar(&k.tokens.create, "create-token", false, "create a personal access token that has the scope k8s_proxy only")
	flags.IntVar(&k.tokens.days, "days", 1, "with --create-token: how many days it is good, at least; it ends at midnight (UTC)")
	flags.StringVar(&k.tokens.file, "proxy-token-file", "", "`FILE` with the personal access token to write")
	flags.StringVar(&k.authority, "certificate-authority", "", "PEM `FILE` of who vouches for the proxy's certificate, where neither RoR nor the system knows (environment: "+proxyCAEnv+")")
	flags.StringVar(&k.proxyURL, "proxy-url", "", "`URL` of the proxy, where RoR does not know it or knows another")
	return cmd
}

var (
	errMergeNowhere   = errors.New("--merge and --output=- exclude each other: standard output holds no kubeconfig")
	errKeepNoMerge    = errors.New("--keep-context has an effect with --merge only")
	errForceNoFile    = errors.New("--force has an effect with --merge or --output=FILE only")
	errTwoTokens      = errors.New("--create-token and --proxy-token-file exclude each other")
	errDaysNoCreate   = errors.New("--days has an effect with --create-token only")
	errDaysOutOfRange = errors.New("--days: want 1 to 365")
)

// check checks the flags.
func (k *kubeconfigOptions) check() error {
	toFile := k.file != "" && k.file != "-"
	switch {
	case k.merge && k.file == "-":
		return errMergeNowhere
	case k.keep && !k.merge:
		return errKeepNoMerge
	case k.force && !k.merge && !toFile:
		return errForceNoFile
	}
	return k.tokens.check()
}

func (k *kubeconfigOptions) run(ctx context.Context, c *client, agentArg string, out, errs io.Writer) error {
	authority, err := k.readAuthority()
	if err != nil {
		return program.Usage(err)
	}
	toFile := k.file != "" && k.file != "-" && !k.merge
	if toFile && !k.force {
		if _, err := os.Lstat(k.file); err == nil { // before a token is created
			return fmt.Errorf("%s is there already: --force replaces it, --merge adds to it", k.file)
		}
	}
	agents, err := c.agents(ctx)
	if err != nil {
		return err
	}
	a, err := find(agents, agentArg)
	if err != nil {
		return err
	}
	server, told, err := k.server(ctx, c)
	if err != nil {
		return err
	}
	if authority == nil {
		authority = told
	}
	token, err := k.tokens.get(ctx, c, k.clock.Now())
	if err != nil {
		return err
	}
	e := entry{agent: a, server: server, authority: authority, token: token}
	switch {
	case k.merge:
		return k.mergeInto(e, out, errs)
	case toFile:
		if err := e.writeFile(k.file, k.force); err != nil {
			return err
		}
		return writeLine(out, fmt.Sprintf("%s: context %s. Use it with: kubectl --kubeconfig %s", k.file, e.name(), k.file))
	}
	text, err := clientcmd.Write(*e.config())
	if err != nil {
		return fmt.Errorf("make kubeconfig: %w", err)
	}
	return writeLine(out, strings.TrimSuffix(string(text), "\n"))
}

// readAuthority returns the PEM of --certificate-authority, or nil.
func (k *kubeconfigOptions) readAuthority() ([]byte, error) {
	file, flag := k.authority, "--certificate-authority"
	if file == "" {
		file, flag = os.Getenv(proxyCAEnv), proxyCAEnv
	}
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file) //nolint:gosec // whose program this is may name any file
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %s holds no certificate in PEM", flag, file)
	}
	return pem, nil
}
