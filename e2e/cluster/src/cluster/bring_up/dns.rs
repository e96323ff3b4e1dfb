//! Tells Kubernetes of its DNS: what it may read, and where it is.
//!
//! On a real cluster it runs in pods behind a Service. Here it is a part of the control plane that listens at the Service's
//! address itself: without kube-proxy nothing leads from that address to a pod.

use super::super::ClusterError;
use super::objects;
use crate::control_plane::DNS;
use crate::names::DNS_ADDRESS;
use crate::paths::StateDir;

/// Creates the rules and the Service; the API server must be ready.
pub(super) fn announce(dir: &StateDir) -> Result<(), ClusterError> {
    objects::make(dir, "dns.yaml", &objects())
}

/// The Service keeps its address from being given to another. Its namespace may be a moment younger than the API server.
fn objects() -> String {
    format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: test-cluster-dns
rules:
- apiGroups: ['']
  resources: [namespaces, pods, services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: test-cluster-dns
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: test-cluster-dns
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: User
  name: {DNS}
---
apiVersion: v1
kind: Namespace
metadata:
  name: kube-system
---
apiVersion: v1
kind: Service
metadata:
  name: kube-dns
  namespace: kube-system
spec:
  clusterIP: {DNS_ADDRESS}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
"
    )
}
