package resources

import "slices"

// kind is one of Kubernetes' own resources.
type kind struct {
	group, plural, singular string
	short                   []string
	clusterScoped           bool
}

func (k *kind) goesBy(name string) bool {
	return name == k.plural || name == k.singular || slices.Contains(k.short, name)
}

// kinds with the short names that API servers give them. Where two groups have a
// resource of one name, the first is meant, as for kubectl.
var kinds = []kind{
	{"", "configmaps", "configmap", []string{"cm"}, false},
	{"", "endpoints", "endpoint", []string{"ep"}, false},
	{"", "events", "event", []string{"ev"}, false},
	{"", "limitranges", "limitrange", []string{"limits"}, false},
	{"", "namespaces", "namespace", []string{"ns"}, true},
	{"", "nodes", "node", []string{"no"}, true},
	{"", "persistentvolumeclaims", "persistentvolumeclaim", []string{"pvc"}, false},
	{"", "persistentvolumes", "persistentvolume", []string{"pv"}, true},
	{"", "pods", "pod", []string{"po"}, false},
	{"", "podtemplates", "podtemplate", nil, false},
	{"", "replicationcontrollers", "replicationcontroller", []string{"rc"}, false},
	{"", "resourcequotas", "resourcequota", []string{"quota"}, false},
	{"", "secrets", "secret", nil, false},
	{"", "serviceaccounts", "serviceaccount", []string{"sa"}, false},
	{"", "services", "service", []string{"svc"}, false},
	{"admissionregistration.k8s.io", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", nil, true},
	{"admissionregistration.k8s.io", "validatingadmissionpolicies", "validatingadmissionpolicy", nil, true},
	{"admissionregistration.k8s.io", "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", nil, true},
	{"admissionregistration.k8s.io", "validatingwebhookconfigurations", "validatingwebhookconfiguration", nil, true},
	{"apiextensions.k8s.io", "customresourcedefinitions", "customresourcedefinition", []string{"crd", "crds"}, true},
	{"apiregistration.k8s.io", "apiservices", "apiservice", nil, true},
	{"apps", "controllerrevisions", "controllerrevision", nil, false},
	{"apps", "daemonsets", "daemonset", []string{"ds"}, false},
	{"apps", "deployments", "deployment", []string{"deploy"}, false},
	{"apps", "replicasets", "replicaset", []string{"rs"}, false},
	{"apps", "statefulsets", "statefulset", []string{"sts"}, false},
	{"autoscaling", "horizontalpodautoscalers", "horizontalpodautoscaler", []string{"hpa"}, false},
	{"batch", "cronjobs", "cronjob", []string{"cj"}, false},
	{"batch", "jobs", "job", nil, false},
	{"certificates.k8s.io", "certificatesigningrequests", "certificatesigningrequest", []string{"csr"}, true},
	{"coordination.k8s.io", "leases", "lease", nil, false},
	{"discovery.k8s.io", "endpointslices", "endpointslice", nil, false},
	{"events.k8s.io", "events", "event", []string{"ev"}, false},
	{"flowcontrol.apiserver.k8s.io", "flowschemas", "flowschema", nil, true},
	{"flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "prioritylevelconfiguration", nil, true},
	{"networking.k8s.io", "ingressclasses", "ingressclass", nil, true},
	{"networking.k8s.io", "ingresses", "ingress", []string{"ing"}, false},
	{"networking.k8s.io", "networkpolicies", "networkpolicy", []string{"netpol"}, false},
	{"node.k8s.io", "runtimeclasses", "runtimeclass", nil, true},
	{"policy", "poddisruptionbudgets", "poddisruptionbudget", []string{"pdb"}, false},
	{"rbac.authorization.k8s.io", "clusterrolebindings", "clusterrolebinding", nil, true},
	{"rbac.authorization.k8s.io", "clusterroles", "clusterrole", nil, true},
	{"rbac.authorization.k8s.io", "rolebindings", "rolebinding", nil, false},
	{"rbac.authorization.k8s.io", "roles", "role", nil, false},
	{"scheduling.k8s.io", "priorityclasses", "priorityclass", []string{"pc"}, true},
	{"storage.k8s.io", "csidrivers", "csidriver", nil, true},
	{"storage.k8s.io", "csinodes", "csinode", nil, true},
	{"storage.k8s.io", "csistoragecapacities", "csistoragecapacity", nil, false},
	{"storage.k8s.io", "storageclasses", "storageclass", []string{"sc"}, true},
	{"storage.k8s.io", "volumeattachments", "volumeattachment", nil, true},
}
