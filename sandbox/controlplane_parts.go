package sandbox

import (
	"context"
	"path/filepath"
	"strconv"

	"github.com/kas-agentk/kas/sandbox/process"
)

const (
	serviceCIDR = "10.96.0.0/16"
	// advertised is what the API server would call itself in the endpoints of the
	// Service kubernetes, which nobody keeps here. An address of its own (from the
	// range for documentation) spares it the search for a default route, which a
	// machine without network lacks.
	advertised = "192.0.2.1"
)

// declare chooses ports and says how each part is run; nothing is started.
func (c *ControlPlane) declare() error {
	address := map[string]string{}
	for _, name := range []string{"etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"} {
		a, err := c.ports.Address(name)
		if err != nil {
			return err
		}
		address[name] = a
	}
	c.Host = "https://" + address["kube-apiserver"]
	c.CAFile = c.pki.caFile
	c.Token = c.pki.token
	c.Kubeconfig = filepath.Join(c.Dir, "kubeconfig")
	if err := c.WriteKubeconfig(c.Kubeconfig, c.Token, ""); err != nil {
		return err
	}
	admin, err := newAdminClient(c.Host, c.pki.ca, c.Token)
	if err != nil {
		return err
	}
	c.admin = admin
	c.Etcd = c.kubernetes("etcd", c.etcdArgs("http://"+address["etcd"], "http://"+address["etcd-peer"]),
		func(ctx context.Context) error { return admin.probe(ctx, "http://"+address["etcd"]+"/readyz") })
	c.APIServer = c.kubernetes("kube-apiserver", c.apiServerArgs(portOf(address["kube-apiserver"]), "http://"+address["etcd"]),
		admin.ready)
	if !c.cfg.WithoutControllers {
		c.ControllerManager = c.kubernetes("kube-controller-manager", c.controllerManagerArgs(portOf(address["kube-controller-manager"])),
			func(ctx context.Context) error {
				return admin.probe(ctx, "https://"+address["kube-controller-manager"]+"/healthz")
			})
	}
	if !c.cfg.WithoutNodes {
		c.Scheduler = c.kubernetes("kube-scheduler", c.schedulerArgs(portOf(address["kube-scheduler"])),
			func(ctx context.Context) error {
				return admin.probe(ctx, "https://"+address["kube-scheduler"]+"/readyz")
			})
		if c.kubeletPort, err = c.ports.Take("kwok"); err != nil {
			return err
		}
		if err := c.prepareLivePods(); err != nil {
			return err
		}
		c.Kwok = c.kwok(address["kwok"])
	}
	return nil
}

// kubernetes is one part of the multi-call program.
func (c *ControlPlane) kubernetes(name string, args []string, ready func(context.Context) error) *process.Process {
	return process.New(process.Config{
		Name:    name,
		Path:    c.programs.Kubernetes,
		Args:    append([]string{name}, args...),
		Dir:     c.Dir,
		LogFile: filepath.Join(c.Dir, "logs", name+".log"),
		Ready:   ready,
		// The scheduler calls an end without leader election an error.
		AnyStopStatus: true,
	})
}

func (c *ControlPlane) etcdArgs(client, peer string) []string {
	args := []string{
		"--name=sandbox",
		"--data-dir=" + filepath.Join(c.Dir, "etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=sandbox=" + peer,
		"--quota-backend-bytes=" + strconv.Itoa(4<<30),
		"--log-level=warn",
	}
	if !c.cfg.Fsync {
		args = append(args, "--unsafe-no-fsync")
	}
	return args
}

func (c *ControlPlane) apiServerArgs(port, etcd string) []string {
	args := []string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1",
		"--secure-port=" + port,
		"--advertise-address=" + advertised,
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + c.pki.certFile,
		"--tls-private-key-file=" + c.pki.keyFile,
		"--token-auth-file=" + c.pki.tokensFile,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.pki.accountKeyFile,
		"--service-account-signing-key-file=" + c.pki.accountKeyFile,
		"--service-cluster-ip-range=" + serviceCIDR,
		"--kubelet-certificate-authority=" + c.pki.caFile,
		"--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=RBAC",
		"--allow-privileged=true",
		// Whoever measures must meet the server's speed, not its manners.
		"--max-requests-inflight=4000",
		"--max-mutating-requests-inflight=2000",
		"--http2-max-streams-per-connection=1000",
		"--profiling=false",
	}
	if c.cfg.WithoutControllers {
		// Nobody would make the accounts that it wants every pod to have.
		args = append(args, "--disable-admission-plugins=ServiceAccount")
	}
	return append(args, c.cfg.APIServerArgs...)
}

func (c *ControlPlane) controllerManagerArgs(port string) []string {
	return append([]string{
		"--kubeconfig=" + c.Kubeconfig,
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
		"--secure-port=" + port,
		"--tls-cert-file=" + c.pki.certFile,
		"--tls-private-key-file=" + c.pki.keyFile,
		"--root-ca-file=" + c.pki.caFile,
		"--service-account-private-key-file=" + c.pki.accountKeyFile,
		"--kube-api-qps=1000",
		"--kube-api-burst=2000",
		"--profiling=false",
	}, c.cfg.ControllerManagerArgs...)
}

func (c *ControlPlane) schedulerArgs(port string) []string {
	return []string{
		"--kubeconfig=" + c.Kubeconfig,
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
		"--secure-port=" + port,
		"--tls-cert-file=" + c.pki.certFile,
		"--tls-private-key-file=" + c.pki.keyFile,
		"--kube-api-qps=1000",
		"--kube-api-burst=2000",
		"--profiling=false",
	}
}

// kwok is ready when it serves and every node is. On the same port it is the kubelet of all
// nodes.
func (c *ControlPlane) kwok(address string) *process.Process {
	return process.New(process.Config{
		Name: "kwok",
		Path: c.programs.Kwok,
		Args: []string{
			"--kubeconfig=" + c.Kubeconfig,
			"--config=" + c.programs.KwokStages,
			"--config=" + filepath.Join(c.Dir, kubeletFile),
			"--manage-all-nodes=true",
			// A lease would outlive a killed kwok and hold up the next one for as long as
			// it lasts; nodes show that they live by their status instead.
			"--node-lease-duration-seconds=0",
			"--server-address=" + address,
			"--node-ip=127.0.0.1",
			"--node-port=" + strconv.Itoa(c.kubeletPort),
			"--tls-cert-file=" + c.pki.certFile,
			"--tls-private-key-file=" + c.pki.keyFile,
		},
		// It reads ~/.kwok and would take the cluster it is in for its own.
		Env:     []string{"HOME=" + c.Dir},
		Dir:     c.Dir,
		LogFile: filepath.Join(c.Dir, "logs", "kwok.log"),
		// It calls its being told to end an error.
		AnyStopStatus: true,
		Ready: func(ctx context.Context) error {
			if err := c.admin.probe(ctx, "http://"+address+"/healthz"); err != nil {
				return err
			}
			return c.admin.nodesReady(ctx, c.cfg.Nodes)
		},
	})
}
