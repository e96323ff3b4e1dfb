//! Code that the build generates from `protos/`: messages, servers and, with the feature `client`,
//! clients.
//!
//! The messages of `v1beta1` and of health `v1alpha1` are those of `v1`: one set of Rust types
//! serves both versions of each service.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    reason = "generated; the .proto files document every message and field"
)]

/// The registration service.
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// The DRA service.
pub mod dra {
    /// Kubernetes 1.34 and later.
    pub mod v1 {
        tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
    }
    /// Kubernetes 1.32 and later: the service only, on the messages of `v1`.
    pub mod v1beta1 {
        tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1beta1");
    }
}

/// The health service.
pub mod health {
    /// Kubernetes 1.37 and later.
    pub mod v1 {
        tonic::include_proto!("v1");
    }
    /// Kubernetes 1.34 to 1.39: the service only, on the messages of `v1`.
    pub mod v1alpha1 {
        tonic::include_proto!("v1alpha1");
    }
}
