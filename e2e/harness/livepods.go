package harness

import (
	"context"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/sandbox"
)

// livePods of a cluster that is ours: as many as tests use at the same time.
const livePods = 16

// LivePod makes a pod that has logs, can be attached to, runs commands and takes connections.
// It is gone with the test. On a cluster that is not the sandbox the test is skipped.
func (f *Fixture) LivePod() sandbox.LivePod {
	f.T.Helper()
	if f.Cluster.live == nil {
		f.T.Skip("live pods are the sandbox's")
	}
	var pod sandbox.LivePod
	select {
	case pod = <-f.Cluster.live:
	case <-f.T.Context().Done():
		f.T.Fatal("no live pod is free")
	}
	f.T.Cleanup(func() { f.Cluster.live <- pod })
	if err := os.Truncate(pod.LogFile, 0); err != nil {
		f.T.Fatal(err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace}}
	if _, err := f.Kube.CoreV1().Namespaces().Create(f.T.Context(), namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		f.T.Fatal(err)
	}
	pods := f.Kube.CoreV1().Pods(pod.Namespace)
	made := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example.com/main:1"}}},
	}
	if err := f.makePod(made, pod.Namespace); err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() {
		now := int64(0)
		err := pods.Delete(context.WithoutCancel(f.T.Context()), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		if err != nil && !apierrors.IsNotFound(err) {
			f.T.Error(err)
		}
	})
	f.Eventually(func() error {
		got, err := pods.Get(f.T.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("get a live pod: %w", err)
		}
		if got.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("the pod %s is %s", pod.Name, got.Status.Phase)
		}
		return nil
	})
	return pod
}

// makePod makes a pod, in a namespace that may be so new that it has no service account.
func (f *Fixture) makePod(pod *corev1.Pod, namespace string) error {
	var last error
	f.Eventually(func() error {
		_, last = f.Kube.CoreV1().Pods(namespace).Create(f.T.Context(), pod, metav1.CreateOptions{})
		if apierrors.IsForbidden(last) {
			return fmt.Errorf("make a pod: %w", last)
		}
		return nil
	})
	if last != nil {
		return fmt.Errorf("make a pod: %w", last)
	}
	return nil
}
