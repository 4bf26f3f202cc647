package diagnose

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentrpc"
)

const (
	// greetings are how many times the API server's version is asked for: the first may
	// have to connect.
	greetings = 3
	// maxFailedAPIs and maxWords bound what is told of parts of the API that are away.
	maxFailedAPIs = 20
	maxWords      = 300
)

// greet finds out whether the API server answers, what it is, and how quick.
func (e *Examiner) greet(ctx context.Context, into *agentrpc.ApiServer) {
	quickest := time.Duration(-1)
	for range greetings {
		began := e.cfg.Clock.Now()
		body, err := e.discovery.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
		if err != nil {
			into.Error = clip(err.Error())
			return
		}
		if took := e.cfg.Clock.Since(began); quickest < 0 || took < quickest {
			quickest = took
		}
		var info apiversion.Info
		if err := json.Unmarshal(body, &info); err != nil {
			into.Error = "it does not say its version, and may be no API server of Kubernetes: " + clip(err.Error())
			return
		}
		into.Version = clip(info.GitVersion)
	}
	into.Rtt = durationpb.New(quickest)
}

// discover finds parts of the API that the API server cannot tell of.
func (e *Examiner) discover(ctx context.Context, into *agentrpc.ApiServer) {
	bounded := &http.Client{Transport: &within{ctx: ctx, next: e.http.Transport}, Timeout: requestTimeout}
	client, err := discovery.NewDiscoveryClientForConfigAndClient(e.rest, bounded)
	if err == nil {
		_, _, err = client.ServerGroupsAndResources()
	}
	var failed *discovery.ErrGroupDiscoveryFailed
	switch {
	case err == nil:
	case errors.As(err, &failed):
		for gv, why := range failed.Groups {
			into.FailedApis = append(into.FailedApis, &agentrpc.FailedApi{GroupVersion: clip(gv.String()), Error: clip(why.Error())})
		}
		slices.SortFunc(into.FailedApis, func(a, b *agentrpc.FailedApi) int { return cmp.Compare(a.GetGroupVersion(), b.GetGroupVersion()) })
		into.FailedApis = into.FailedApis[:min(len(into.FailedApis), maxFailedAPIs)]
	default:
		into.FailedApis = []*agentrpc.FailedApi{{Error: clip(err.Error())}}
	}
}

// lead finds out who holds the agent's Lease.
func (e *Examiner) lead(ctx context.Context, agentID int64, into *agentrpc.Leadership) {
	name := "agentk-" + strconv.FormatInt(agentID, 10)
	into.Lease = e.cfg.Namespace + "/" + name
	lease, err := e.leases.Leases(e.cfg.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		into.Error = clip(err.Error())
		return
	}
	spec := lease.Spec
	if spec.HolderIdentity != nil {
		into.Holder = clip(*spec.HolderIdentity)
	}
	into.Self = into.GetHolder() != "" && *spec.HolderIdentity == e.cfg.Identity
	if spec.RenewTime == nil {
		return
	}
	into.RenewedAt = timestamppb.New(spec.RenewTime.Time)
	if spec.LeaseDurationSeconds != nil {
		// Twice: the clocks of replicas differ.
		into.Expired = e.cfg.Clock.Since(spec.RenewTime.Time) > 2*time.Duration(*spec.LeaseDurationSeconds)*time.Second
	}
}

// clip makes a text one line of bounded length.
func clip(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= maxWords {
		return strings.ToValidUTF8(text, "")
	}
	return strings.ToValidUTF8(text[:maxWords], "") + "…"
}
