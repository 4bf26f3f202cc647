package fakekas

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
)

// Clusters is what kas says of what is in clusters.
type Clusters struct {
	// Questions that it was asked.
	Questions []proto.Message
	Object    *clusterstate.GetResponse
	// Parts of a list, Watched of a watch, Fleet of a fleet's.
	Parts   []*clusterstate.ListResponse
	Watched []*clusterstate.WatchResponse
	Fleet   []*railsrpc.ListFleetResponse
	// News are further parts of a watch, as they come.
	News <-chan *clusterstate.WatchResponse
	// Broken is how every answer ends. A watch without it goes on until its context ends.
	Broken error
}

// ClusterGet implements what clusters asks of kas, as do the following.
func (k *Clusters) ClusterGet(_ context.Context, r *railsrpc.ClusterGetRequest) (*clusterstate.GetResponse, error) {
	k.Questions = append(k.Questions, r)
	return k.Object, k.Broken
}

// ClusterList gives the Parts.
func (k *Clusters) ClusterList(_ context.Context, r *railsrpc.ClusterListRequest, each func(*clusterstate.ListResponse) error) error {
	k.Questions = append(k.Questions, r)
	return give(k.Parts, each, k.Broken)
}

// ClusterWatch gives what is Watched, then the News.
func (k *Clusters) ClusterWatch(ctx context.Context, r *railsrpc.ClusterWatchRequest, each func(*clusterstate.WatchResponse) error) error {
	k.Questions = append(k.Questions, r)
	if err := give(k.Watched, each, k.Broken); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case part := <-k.News:
			if err := each(part); err != nil {
				return err
			}
		}
	}
}

// ListFleet gives the Fleet.
func (k *Clusters) ListFleet(_ context.Context, r *railsrpc.ListFleetRequest, each func(*railsrpc.ListFleetResponse) error) error {
	k.Questions = append(k.Questions, r)
	return give(k.Fleet, each, k.Broken)
}

func give[Part any](parts []Part, each func(Part) error, end error) error {
	for _, part := range parts {
		if err := each(part); err != nil {
			return err
		}
	}
	return end
}
