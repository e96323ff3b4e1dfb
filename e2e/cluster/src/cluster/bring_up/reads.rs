//! Lets kubelets read claims and pods without the node authorizer's memory.
//!
//! The node authorizer learns which claim belongs to which node by a watch of its own. A kubelet that
//! is quicker than that watch is refused, and asks again only when it looks at the pod the next time,
//! after a minute or more. With many pods at once on a machine of two cores that happens, it is none
//! of what is tested here, and it would make every test wait for it now and then.

use super::super::ClusterError;
use super::objects;
use crate::paths::StateDir;

/// Rules for the group of all kubelets.
const RULES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: test-cluster-nodes-read
rules:
- apiGroups: ['']
  resources: [pods]
  verbs: [get]
- apiGroups: [resource.k8s.io]
  resources: [resourceclaims]
  verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: test-cluster-nodes-read
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: test-cluster-nodes-read
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: system:nodes
";

/// Writes the rules; the API server must be ready.
pub(super) fn permit(dir: &StateDir) -> Result<(), ClusterError> {
    objects::make(dir, "nodes-read.yaml", RULES)
}
