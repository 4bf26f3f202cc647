package engine_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/agentk/kubeapi"
	agentend "github.com/kas-agentk/kas/agentk/tunnel"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/testkit"
	kasend "github.com/kas-agentk/kas/kas/tunnel"
)

// anyone lets each agent in, as agent 1.
type anyone struct{}

func (anyone) Agent(context.Context, string) (gitlabapi.AgentInfo, error) {
	return gitlabapi.AgentInfo{AgentID: 1}, nil
}

func (anyone) Rechecked(int64) <-chan struct{} { return nil }

// reached is the API server as kas reaches it, by the tunnel, and a namespace.
type reached struct {
	t         *testing.T
	namespace string
	admin     kubernetes.Interface
	agent     *kubeapi.Server
	client    agentrpc.KubernetesApiClient
}

// reach reaches the API server with the rights of an administrator.
func reach(t *testing.T) *reached {
	t.Helper()
	admin := rest.CopyConfig(server)
	admin.QPS = -1
	r := &reached{t: t}
	var err error
	r.admin, err = kubernetes.NewForConfig(admin)
	require.NoError(t, err)
	ns, err := r.admin.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "kubeapi-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	r.namespace = ns.Name
	r.connect(server)
	return r
}

// connect has an agent that reaches the API server by rc.
func (r *reached) connect(rc *rest.Config) {
	t := r.t
	t.Helper()
	agent, err := kubeapi.NewServer(kubeapi.Config{RESTConfig: rc})
	require.NoError(t, err)
	r.agent = agent
	kas, err := kasend.NewServer(kasend.Config{}, kasend.Collaborators{Access: anyone{}, Registerer: prometheus.NewRegistry()})
	require.NoError(t, err)
	listener := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	agentrpc.RegisterReverseTunnelServer(srv, kas)
	conn, err := grpc.NewClient("passthrough:///kas", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithPerRPCCredentials(grpctool.TokenCredentials{Token: func() (string, error) { return "x", nil }, Plaintext: true}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	require.NoError(t, err)
	tunnel := agentend.NewServer(agentend.Config{
		Client: agentrpc.NewReverseTunnelClient(conn), Log: testkit.Logger(t),
		Meta: func(context.Context) *agentrpc.AgentMeta { return &agentrpc.AgentMeta{} },
	})
	agentrpc.RegisterKubernetesApiServer(tunnel, agent)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var g errgroup.Group
	g.Go(func() error { return testkit.Serve(srv, listener) })
	g.Go(func() error { return kas.Run(ctx) })
	g.Go(func() error { return tunnel.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		srv.GracefulStop()
		require.NoError(t, g.Wait())
		require.NoError(t, conn.Close())
		agent.Close()
	})
	r.client = agentrpc.NewKubernetesApiClient(kas.Conn(1))
}

// limited is a service account that may do what the documentation says that agentk must to
// act in the name of others, and nothing else.
func (r *reached) limited() *rest.Config {
	r.t.Helper()
	account, err := r.admin.CoreV1().ServiceAccounts(r.namespace).Create(r.t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "agentk"}}, metav1.CreateOptions{})
	require.NoError(r.t, err)
	page, err := os.ReadFile("../../docs/agentk.md")
	require.NoError(r.t, err)
	_, block, found := strings.Cut(string(page), "```yaml\napiVersion: rbac")
	require.True(r.t, found)
	block, _, _ = strings.Cut("apiVersion: rbac"+block, "```")
	role := &rbacv1.ClusterRole{}
	require.NoError(r.t, yaml.UnmarshalStrict([]byte(block), role))
	role.Name = r.namespace
	role, err = r.admin.RbacV1().ClusterRoles().Create(r.t.Context(), role, metav1.CreateOptions{})
	require.NoError(r.t, err)
	_, err = r.admin.RbacV1().ClusterRoleBindings().Create(r.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: r.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: r.namespace, Name: account.Name}},
	}, metav1.CreateOptions{})
	require.NoError(r.t, err)
	token, err := r.admin.CoreV1().ServiceAccounts(r.namespace).CreateToken(r.t.Context(), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(r.t, err)
	rc := rest.CopyConfig(server)
	rc.BearerToken = token.Status.Token
	return rc
}

// begin makes a request. BELOW stands for the path of the namespace.
func (r *reached) begin(who *agentrpc.Impersonation, method, url, contentType, body string) (code int32, answer io.Reader, leave func(), err error) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	stream, err := r.client.Do(ctx)
	require.NoError(r.t, err)
	require.NoError(r.t, stream.Send(&agentrpc.HttpRequest{Data: []byte(body), Head: &agentrpc.HttpRequestHead{
		Method: method, Url: strings.Replace(url, "BELOW", "/api/v1/namespaces/"+r.namespace, 1), ContentLength: proto.Int64(int64(len(body))), Impersonation: who,
		Headers: []*agentrpc.HttpHeader{{Name: "Content-Type", Values: []string{contentType}}, {Name: "Accept", Values: []string{"application/json"}}},
	}}))
	require.NoError(r.t, stream.CloseSend())
	first, err := stream.Recv()
	if err != nil {
		cancel()
		return 0, nil, cancel, err
	}
	reader, writer := io.Pipe()
	go func() {
		for {
			m, err := stream.Recv()
			if err == nil {
				_, err = writer.Write(m.GetData())
			}
			if err != nil {
				_ = writer.CloseWithError(err)
				return
			}
		}
	}()
	return first.GetHead().GetStatus(), reader, func() { cancel(); _ = reader.Close() }, nil
}

// ask makes a request and returns the whole answer.
func (r *reached) ask(who *agentrpc.Impersonation, method, url, contentType, body string) (code int32, answer map[string]any) {
	r.t.Helper()
	code, reader, leave, err := r.begin(who, method, url, contentType, body)
	require.NoError(r.t, err)
	defer leave()
	data, err := io.ReadAll(reader)
	require.NoError(r.t, err)
	require.NoError(r.t, json.Unmarshal(data, &answer), "%s", data)
	return code, answer
}

func TestKubernetesAPI_AppliesGetsAndWatches(t *testing.T) {
	t.Parallel()
	r := reach(t)
	code, lines, leave, err := r.begin(nil, http.MethodGet, "BELOW/configmaps?watch=true&fieldSelector=metadata.name%3Done", "", "")
	require.NoError(t, err)
	defer leave()
	require.EqualValues(t, http.StatusOK, code, "a watch is answered before anything happens")
	watch := bufio.NewScanner(lines)
	watch.Buffer(nil, 1<<20)

	object := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  key: " + strings.Repeat("x", 200<<10) + "\n"
	code, applied := r.ask(nil, http.MethodPatch, "BELOW/configmaps/one?fieldManager=me&force=true", "application/apply-patch+yaml", object)
	require.EqualValues(t, http.StatusCreated, code, "%v", applied)
	code, got := r.ask(nil, http.MethodGet, "BELOW/configmaps/one", "", "")
	require.EqualValues(t, http.StatusOK, code)
	require.Equal(t, applied["metadata"], got["metadata"])
	require.True(t, watch.Scan(), "%v", watch.Err())
	var event struct {
		Type   string         `json:"type"`
		Object map[string]any `json:"object"`
	}
	require.NoError(t, json.Unmarshal(watch.Bytes(), &event))
	require.Equal(t, "ADDED", event.Type)
	require.Equal(t, got["metadata"], event.Object["metadata"])
}

func TestKubernetesAPI_ActsInTheNameOfOthers(t *testing.T) {
	t.Parallel()
	r := reach(t)
	r.connect(r.limited())
	who := &agentrpc.Impersonation{
		Username: "gitlab:user:someone", Groups: []string{"gitlab:user", "gitlab:project_role:7:developer"},
		Extra: []*agentrpc.ImpersonationExtra{{Key: "agent.gitlab.com/id", Values: []string{"1"}}, {Key: "agent.gitlab.com/access_type", Values: []string{"personal_access_token"}}},
	}
	testkit.Eventually(t, func() error { // the authorizer takes a moment
		code, refusal := r.ask(who, http.MethodGet, "BELOW/configmaps", "", "")
		if want := `User "gitlab:user:someone" cannot list resource "configmaps"`; code != http.StatusForbidden || !strings.Contains(fmt.Sprint(refusal["message"]), want) {
			return fmt.Errorf("%d: %v", code, refusal["message"])
		}
		return nil
	})
	code, refusal := r.ask(nil, http.MethodGet, "BELOW/configmaps", "", "")
	require.EqualValues(t, http.StatusForbidden, code, "%v", refusal)

	_, err := r.admin.RbacV1().RoleBindings(r.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "developers"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "gitlab:project_role:7:developer"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	testkit.Eventually(t, func() error {
		if code, answer := r.ask(who, http.MethodGet, "BELOW/configmaps", "", ""); code != http.StatusOK {
			return fmt.Errorf("%d: %v", code, answer["message"])
		}
		return nil
	})

	code, review := r.ask(who, http.MethodPost, "/apis/authentication.k8s.io/v1/selfsubjectreviews", "application/json",
		`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	require.EqualValues(t, http.StatusCreated, code)
	seen, err := json.Marshal(review["status"])
	require.NoError(t, err)
	require.JSONEq(t, `{"userInfo": {
		"username": "gitlab:user:someone", "groups": ["gitlab:user", "gitlab:project_role:7:developer", "system:authenticated"],
		"extra": {"agent.gitlab.com/id": ["1"], "agent.gitlab.com/access_type": ["personal_access_token"]}
	}}`, string(seen))
}

func TestKubernetesAPI_ServicesOnlyWhereTheyAreNamed(t *testing.T) {
	t.Parallel()
	r := reach(t)
	refused := func() {
		t.Helper()
		_, _, _, err := r.begin(nil, http.MethodGet, "BELOW/services/web:80/proxy/", "", "")
		require.Equal(t, codes.PermissionDenied, status.Code(err), "%v", err)
	}
	refused()
	r.agent.Configure(&agentcfg.KubernetesApi{Services: []*agentcfg.ProxiedService{{Namespace: r.namespace, Name: "web", Port: "80"}}})
	code, answer := r.ask(nil, http.MethodGet, "BELOW/services/web:80/proxy/", "", "")
	require.EqualValues(t, http.StatusNotFound, code, "the API server was asked, and there is none")
	require.Contains(t, answer["message"], `services "web" not found`)
	r.agent.Configure(nil)
	refused()
}
