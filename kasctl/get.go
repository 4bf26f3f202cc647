package kasctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kas-agentk/kas/internal/program"
	"github.com/kas-agentk/kas/internal/resources"
)

// formatName prints KIND/NAME only; get alone knows it.
const formatName = "name"

// getOptions of the command get.
type getOptions struct {
	*options
	namespace     string
	allNamespaces bool
	selector      string
	fieldSelector string
	allAgents     bool
	noHeaders     bool
	watch         bool

	// What the arguments name.
	agent    string
	resource resources.Name
	name     string
	// errs is where remarks go.
	errs io.Writer
}

func (o *options) getCommand() *cobra.Command {
	g := &getOptions{options: o}
	cmd := &cobra.Command{
		Use:   "get AGENT RESOURCE [NAME]",
		Short: "Show what is in a cluster",
		Long: `get shows objects in the cluster of an agent, as kubectl get does. The agent answers from
what it keeps in memory, so that asking costs the cluster nothing.

AGENT is an agent's name, its number, or CONFIG-PROJECT:NAME where names are ambiguous.
RESOURCE is named as for kubectl: pods, pod, po, deployments.apps, deploy, RESOURCE/NAME;
custom resources by their plural and, unless only one has that, their group:
widgets.example.com.

With --all-agents there is no AGENT: all that your user may see are asked. Those that do
not answer are named on standard error, and the exit status is 1.`,
		Example: `  kasctl get production pods -n web
  kasctl get production deploy -A -o wide
  kasctl get production configmap settings -n web -o yaml
  kasctl get production pods -n web -l app=shop --watch
  kasctl get --all-agents nodes`,
		Args: cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			g.errs = cmd.ErrOrStderr()
			if err := g.parse(args, cmd.Flags().Changed("namespace")); err != nil {
				return program.Usage(err)
			}
			c, err := g.client()
			if err != nil {
				return err
			}
			return g.run(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&g.output, "output", "o", formatTable, strings.Join(getFormats, ", "))
	flags.StringVarP(&g.namespace, "namespace", "n", "default", "look into this namespace")
	flags.BoolVarP(&g.allNamespaces, "all-namespaces", "A", false, "look into all namespaces")
	flags.StringVarP(&g.selector, "selector", "l", "", "only objects with these labels: app=shop,tier!=cache")
	flags.StringVar(&g.fieldSelector, "field-selector", "", "only objects with these fields: status.phase=Running,spec.nodeName=node-1")
	flags.BoolVar(&g.allAgents, "all-agents", false, "ask all agents")
	flags.BoolVar(&g.noHeaders, "no-headers", false, "print no line that names the columns")
	flags.BoolVarP(&g.watch, "watch", "w", false, "show what is there, then every change, until interrupted")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(getFormats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

var getFormats = []string{formatTable, formatWide, formatJSON, formatYAML, formatName}

var (
	errNoResource    = errors.New("name an agent and a resource: get AGENT RESOURCE, or get --all-agents RESOURCE")
	errTooManyArgs   = errors.New("with --all-agents name a resource and perhaps an object, and no agent")
	errTwoNames      = errors.New("name the object once: RESOURCE NAME or RESOURCE/NAME")
	errTwoNamespaces = errors.New("--namespace and --all-namespaces exclude each other")
	errFleetWatch    = errors.New("--all-agents and --watch exclude each other")
	errNameEverywere = errors.New("an object cannot be had by its name from all namespaces: name one, or use --field-selector metadata.name=NAME")
	errNameSelector  = errors.New("a selector has no effect where one object is named")
)

// parse reads the arguments and checks the flags.
func (g *getOptions) parse(args []string, namespaced bool) error {
	if !g.allAgents {
		g.agent, args = args[0], args[1:]
	}
	if len(args) == 0 {
		return errNoResource
	}
	if len(args) > 2 {
		return errTooManyArgs
	}
	resource, name, slashed := strings.Cut(args[0], "/")
	if len(args) == 2 {
		if slashed {
			return errTwoNames
		}
		name = args[1]
	}
	var err error
	if g.resource, err = resources.Parse(resource); err != nil {
		return err
	}
	g.name = name
	switch {
	case !slices.Contains(getFormats, g.output):
		return fmt.Errorf("--output %q: want one of %s", g.output, strings.Join(getFormats, ", "))
	case g.allNamespaces && namespaced:
		return errTwoNamespaces
	case g.allAgents && g.watch:
		return errFleetWatch
	case g.name != "" && g.allNamespaces && !g.allAgents:
		return errNameEverywere
	case g.name != "" && g.selector+g.fieldSelector != "":
		return errNameSelector
	}
	if g.allNamespaces || g.resource.ClusterScoped() {
		g.namespace = ""
	}
	return nil
}

func (g *getOptions) run(ctx context.Context, c *client, out io.Writer) error {
	if g.allAgents {
		return g.runFleet(ctx, c, out)
	}
	agents, err := c.agents(ctx)
	if err != nil {
		return err
	}
	a, err := find(agents, g.agent)
	if err != nil {
		return err
	}
	switch {
	case g.watch:
		err = g.runWatch(ctx, c, a, out)
	case g.name != "":
		err = g.runOne(ctx, c, a, out)
	default:
		err = g.runList(ctx, c, a, out)
	}
	if err != nil {
		return fmt.Errorf("get %s of %s: %w", g.resource.Resource, a.fullName(), err)
	}
	return nil
}

func (g *getOptions) runList(ctx context.Context, c *client, a *agent, out io.Writer) error {
	list, err := c.listObjects(ctx, a, g)
	if err != nil {
		return err
	}
	g.remark(&list.Source)
	if len(list.Items) == 0 && g.isTable() {
		return g.sayNone()
	}
	return g.write(out, list)
}

func (g *getOptions) runOne(ctx context.Context, c *client, a *agent, out io.Writer) error {
	list, err := c.getObject(ctx, a, g)
	if err != nil {
		return err
	}
	g.remark(&list.Source)
	if g.output == formatJSON || g.output == formatYAML {
		return writeDocument(out, g.output, list.Items[0].Object)
	}
	return g.write(out, list)
}

func (g *getOptions) isTable() bool { return isTable(g.output) || g.output == formatName }

// sayNone says that there is nothing, where it does not mix with output.
func (g *getOptions) sayNone() error {
	where := "."
	if g.namespace != "" {
		where = " in " + g.namespace + " namespace."
	}
	return writeLine(g.errs, "No resources found"+where)
}
