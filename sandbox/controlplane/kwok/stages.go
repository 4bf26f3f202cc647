// Package kwok pins the version of kwok that the sandbox runs.
package kwok

import (
	_ "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	_ "sigs.k8s.io/kwok/kustomize/stage/node/heartbeat"
	_ "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
)
