package kasctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// entry is how a kubeconfig reaches the cluster of an agent.
type entry struct {
	agent  *agent
	server string
	// authority is PEM; nil: the system's.
	authority []byte
	// token is a personal access token.
	token string
}

// name of its cluster, user and context: path of the configuration project, and agent.
func (e entry) name() string {
	return strings.ReplaceAll(e.agent.ConfigProject.PathWithNamespace, "/", "-") + ":" + e.agent.Name
}

// user is what bearer tokens of the agent begin with.
func (e entry) user() string { return fmt.Sprintf("pat:%d:", e.agent.ID) }

// addTo adds the entry to a kubeconfig.
func (e entry) addTo(config *api.Config) {
	cluster := &api.Cluster{Server: e.server, CertificateAuthorityData: e.authority}
	user := &api.AuthInfo{Token: e.user() + e.token}
	// What was said of a context that is there already, its namespace above all, stays.
	use := config.Contexts[e.name()]
	if use == nil {
		use = &api.Context{}
	}
	use.Cluster, use.AuthInfo = e.name(), e.name()
	if old := config.Clusters[e.name()]; old != nil {
		cluster.LocationOfOrigin = old.LocationOfOrigin
	}
	if old := config.AuthInfos[e.name()]; old != nil {
		user.LocationOfOrigin = old.LocationOfOrigin
	}
	config.Clusters[e.name()], config.AuthInfos[e.name()], config.Contexts[e.name()] = cluster, user, use
}

// config is a kubeconfig of the entry alone.
func (e entry) config() *api.Config {
	config := api.NewConfig()
	e.addTo(config)
	config.CurrentContext = e.name()
	return config
}

// isOther tells whether a kubeconfig has something else by the entry's name.
func (e entry) isOther(config *api.Config) bool {
	if cluster := config.Clusters[e.name()]; cluster != nil && cluster.Server != e.server {
		return true
	}
	user := config.AuthInfos[e.name()]
	return user != nil && !strings.HasPrefix(user.Token, e.user())
}

// writeFile writes a kubeconfig of the entry alone. What is there is replaced as a whole,
// or not at all, and only if told to.
func (e entry) writeFile(path string, replace bool) error {
	text, err := clientcmd.Write(*e.config())
	if err != nil {
		return fmt.Errorf("make kubeconfig: %w", err)
	}
	var file *os.File
	if replace {
		file, err = os.CreateTemp(filepath.Dir(path), ".kubeconfig-") // mode 0600
	} else {
		file, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Close())
	if err == nil && replace {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w", errors.Join(err, os.Remove(file.Name())))
	}
	return nil
}

// mergeInto adds the entry to the kubeconfig that the flags or the environment name, the
// way kubectl config does.
func (k *kubeconfigOptions) mergeInto(e entry, out, errs io.Writer) error {
	paths := clientcmd.NewDefaultPathOptions()
	paths.LoadingRules.ExplicitPath = k.file
	config, err := paths.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	if e.isOther(config) && !k.force {
		return fmt.Errorf("the kubeconfig has another %s: --force replaces it", e.name())
	}
	e.addTo(config)
	if !k.keep {
		config.CurrentContext = e.name()
	}
	if err := clientcmd.ModifyConfig(paths, *config, true); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	file := config.AuthInfos[e.name()].LocationOfOrigin
	if file == "" {
		file = paths.GetDefaultFilename()
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		if err := writeLine(errs, fmt.Sprintf("kasctl: others on this machine may read %s (mode %04o), which holds a token: chmod 600 %[1]s", file, info.Mode().Perm())); err != nil {
			return err
		}
	}
	use := "kubectl --context " + e.name()
	if !k.keep {
		use = "kubectl, whose current context it is"
	}
	return writeLine(out, fmt.Sprintf("%s: context %s. Use it with: %s", file, e.name(), use))
}
