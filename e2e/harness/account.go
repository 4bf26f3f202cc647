package harness

import (
	"context"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Account is a service account that may do what it was granted and nothing else.
type Account struct {
	f    *Fixture
	name string
	// Kubeconfig is a file with a token of the account.
	Kubeconfig string
}

// NewAccount makes one in the agent's namespace.
func (f *Fixture) NewAccount(name string, rules ...rbacv1.PolicyRule) *Account {
	f.T.Helper()
	accounts := f.Kube.CoreV1().ServiceAccounts(f.AgentNamespace)
	_, err := accounts.Create(f.T.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	token, err := accounts.CreateToken(f.T.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(f.Cluster.Kubeconfig)
	if err != nil {
		f.T.Fatal(err)
	}
	for user := range config.AuthInfos {
		config.AuthInfos[user] = &api.AuthInfo{Token: token.Status.Token}
	}
	a := &Account{f: f, name: name, Kubeconfig: filepath.Join(f.T.TempDir(), "kubeconfig")}
	if err := clientcmd.WriteToFile(*config, a.Kubeconfig); err != nil {
		f.T.Fatal(err)
	}
	a.Grant("first", rules...)
	return a
}

// Grant lets the account do more, in all namespaces. grant is a name for it.
func (a *Account) Grant(grant string, rules ...rbacv1.PolicyRule) {
	f := a.f
	f.T.Helper()
	name := f.Name + "-" + a.name + "-" + grant
	rbac := f.Kube.RbacV1()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	if _, err := rbac.ClusterRoles().Create(f.T.Context(), role, metav1.CreateOptions{}); err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() {
		if err := rbac.ClusterRoles().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			f.T.Error(err)
		}
	})
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: a.name, Namespace: f.AgentNamespace}},
	}
	if _, err := rbac.ClusterRoleBindings().Create(f.T.Context(), binding, metav1.CreateOptions{}); err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() {
		if err := rbac.ClusterRoleBindings().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			f.T.Error(err)
		}
	})
}
