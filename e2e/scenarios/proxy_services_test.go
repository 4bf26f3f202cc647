package scenarios

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/e2e/harness"
)

// ownAddress of this machine, at which an API server connects to a pod: it does not at the
// loopback.
func ownAddress(f *harness.Fixture) string {
	f.T.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		f.T.Fatal(err)
	}
	i := slices.IndexFunc(addresses, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast()
	})
	if i < 0 {
		f.T.Skip("this machine has no address but the loopback's")
	}
	network, _ := addresses[i].(*net.IPNet)
	return network.IP.String()
}

// serve makes a Service of the fixture's namespace, whose one pod is this process.
func serve(f *harness.Fixture, name string, handler http.Handler) {
	f.T.Helper()
	ip := ownAddress(f)
	listener, err := (&net.ListenConfig{}).Listen(f.T.Context(), "tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		f.T.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: harness.AnswerTimeout}
	go func() { _ = server.Serve(listener) }()
	f.T.Cleanup(func() { _ = server.Close() })
	port := int32(listener.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // it is one of TCP

	// Nobody schedules the pod, so nobody gives it an address but this test; and the API
	// server connects to a Service's addresses only where they are those of its pods.
	pods := f.Kube.CoreV1().Pods(f.Name)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			SchedulerName: "nobody", Containers: []corev1.Container{{Name: "main", Image: "registry.example.com/main:1"}},
		},
	}
	f.Eventually(func() error { // a new namespace has no service account
		pod, err = pods.Create(f.T.Context(), pod, metav1.CreateOptions{})
		return err
	})
	pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	if _, err := pods.UpdateStatus(f.T.Context(), pod, metav1.UpdateOptions{}); err != nil {
		f.T.Fatal(err)
	}
	_, err = f.Kube.CoreV1().Services(f.Name).Create(f.T.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	meta := metav1.ObjectMeta{Name: name, Labels: map[string]string{"endpointslice.kubernetes.io/skip-mirror": "true"}}
	_, err = f.Kube.CoreV1().Endpoints(f.Name).Create(f.T.Context(), &corev1.Endpoints{ //nolint:staticcheck // it is what the API server's proxy reads
		ObjectMeta: meta,
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // see above
			Addresses: []corev1.EndpointAddress{{IP: ip, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: f.Name, Name: name}}},
			Ports:     []corev1.EndpointPort{{Name: "web", Port: port}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
}

func TestProxy_ServicesAreReachedWhereTheConfigurationNamesThem(t *testing.T) {
	t.Parallel()
	f, kubectl := proxied(t, asAgent)
	for _, name := range []string{"prometheus", "other"} {
		serve(f, name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s %s %s authorization=%q", name, r.Method, r.URL, r.Header.Get("Authorization"))
		}))
	}
	path := func(name string) string {
		return "/api/v1/namespaces/" + f.Name + "/services/" + name + ":web/proxy/api/v1/query?query=up"
	}
	_, err := kubectl.Run("", "get", "--raw", path("prometheus"))
	if err := failedSaying(err, "kas: ", "kubernetes_api.services", "{namespace: "+f.Name+", name: prometheus, port: "); err != nil {
		t.Error(err)
	}
	f.ConfigureFile(asAgent(f) + "kubernetes_api:\n  services: [{namespace: " + f.Name + ", name: prometheus}]\n")
	f.Eventually(func() error {
		out, err := kubectl.Run("", "get", "--raw", path("prometheus"))
		if err == nil && out != `prometheus GET /api/v1/query?query=up authorization=""` {
			err = errors.New(out)
		}
		return err
	})
	for _, path := range []string{
		path("other"),
		"/api/v1/namespaces/" + f.Name + "/pods/prometheus/proxy/",
		"/api/v1/nodes/node-0/proxy/pods",
	} {
		_, err := kubectl.Run("", "get", "--raw", path)
		if err := failedSaying(err, "kas: ", "cannot be reached"); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	f.ConfigureFile(asAgent(f))
	f.Eventually(func() error {
		_, err := kubectl.Run("", "get", "--raw", path("prometheus"))
		return failedSaying(err, "cannot be reached")
	})
}
