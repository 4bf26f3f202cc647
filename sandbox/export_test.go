package sandbox

import "context"

// MakeNodes is what a start does, with kubelets at another port than kwok's, or with 0 at it.
func (c *ControlPlane) MakeNodes(ctx context.Context, kubeletPort int) error {
	if kubeletPort == 0 {
		kubeletPort = c.kubeletPort
	}
	return c.admin.createNodes(ctx, c.cfg.Nodes, kubeletPort)
}
