package sandbox

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"
)

// kubeletFile is where the control plane's directory keeps what kwok answers as a kubelet.
const kubeletFile = "kubelet.yaml"

// deadLog is what the log of every other pod says.
const deadLog = "This pod is on a fake node: nothing runs in it."

// LivePod is a pod that does more than to be there. Once somebody has made a pod of that
// name, with a container, kwok's kubelet answers for it:
//
//   - logs and attach show LogFile,
//   - port-forward, of whatever port, leads to Address,
//   - exec runs the command on this machine, as the user that runs kwok, in a folder of its
//     own. As nothing tells a kubelet of kwok's who asks, whoever may use this machine's
//     loopback could run commands by it; what keeps them out is that Namespace cannot be
//     guessed. So it does not belong on command lines, which everybody can read.
//
// Of exec, kwok does not pass on the end of standard input, and the status of a command only
// in the text of an error ("exit status 3").
type LivePod struct {
	Namespace, Name string
	// LogFile is in the format of container runtimes, see AppendLog. It is there, and empty
	// or left by an earlier start.
	LogFile string
	// Address is HOST:PORT on the loopback, for whoever wants to be connected to.
	Address string
}

// AppendLog adds a line to what the pod's log shows.
func (p *LivePod) AppendLog(line string) error {
	file, err := os.OpenFile(p.LogFile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("append to a pod's log: %w", err)
	}
	_, err = file.WriteString(LogLine(line))
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("append to a pod's log: %w", err)
	}
	return nil
}

// LogLine is a line of a log as container runtimes write them.
func LogLine(line string) string {
	return time.Now().UTC().Format(time.RFC3339Nano) + " stdout F " + line + "\n"
}

// prepareLivePods chooses them and writes what kwok has to know. They live in a namespace that
// is chosen anew at each start.
func (c *ControlPlane) prepareLivePods() error {
	dir := filepath.Join(c.Dir, "pods")
	dead := filepath.Join(dir, "dead", "log")
	if err := writeLog(dead, LogLine(deadLog)); err != nil {
		return err
	}
	objects := []any{
		kwokObject("ClusterLogs", "", "dead", map[string]any{"logs": []any{map[string]any{"logsFile": dead}}}),
		kwokObject("ClusterAttach", "", "dead", map[string]any{"attaches": []any{map[string]any{"logsFile": dead}}}),
	}
	namespace := "live-" + hex.EncodeToString(randomBytes(16))
	for i := range c.cfg.LivePods {
		pod := LivePod{Namespace: namespace, Name: "live-" + strconv.Itoa(i)}
		home := filepath.Join(dir, pod.Name)
		pod.LogFile = filepath.Join(home, "log", "log") // who follows it watches its folder
		if err := writeLog(pod.LogFile, ""); err != nil {
			return err
		}
		var err error
		if pod.Address, err = c.ports.Address(pod.Name); err != nil {
			return err
		}
		objects = append(objects, pod.kwokObjects(home)...)
		c.LivePods = append(c.LivePods, pod)
	}
	var all bytes.Buffer
	for _, object := range objects {
		data, err := yaml.Marshal(object)
		if err != nil {
			return fmt.Errorf("write what a kubelet answers: %w", err)
		}
		_, _ = fmt.Fprintf(&all, "---\n%s", data)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, kubeletFile), all.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write what a kubelet answers: %w", err)
	}
	return nil
}

// kwokObjects tell kwok what to answer for the pod.
func (p *LivePod) kwokObjects(home string) []any {
	host, port, _ := net.SplitHostPort(p.Address) // ours
	number, _ := strconv.Atoi(port)
	target := map[string]any{"address": host, "port": number}
	one := func(kind, field string, what map[string]any) any {
		return kwokObject(kind, p.Namespace, p.Name, map[string]any{field: []any{what}})
	}
	return []any{
		one("Logs", "logs", map[string]any{"logsFile": p.LogFile}),
		one("Attach", "attaches", map[string]any{"logsFile": p.LogFile}),
		one("PortForward", "forwards", map[string]any{"target": target}),
		one("Exec", "execs", map[string]any{"local": map[string]any{"workDir": home}}),
	}
}

func kwokObject(kind, namespace, name string, spec map[string]any) any {
	return map[string]any{
		"apiVersion": "kwok.x-k8s.io/v1alpha1",
		"kind":       kind,
		"metadata":   map[string]any{"namespace": namespace, "name": name},
		"spec":       spec,
	}
}

// writeLog makes a log and its folder, and leaves what there is.
func writeLog(path, content string) error {
	if exists(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make a pod's folder: %w", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("make a pod's log: %w", err)
	}
	return nil
}
