//! Generates the gRPC code from `protos/` without a system `protoc`.

use std::error::Error;

const PROTOS: [&str; 5] = [
    "pluginregistration/api.proto",
    "dra/v1/api.proto",
    "dra/v1beta1/api.proto",
    "health/v1/api.proto",
    "health/v1alpha1/api.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let files = protox::compile(PROTOS, ["protos"])?;
    tonic_prost_build::configure()
        .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
        // Channels are made by `client::connect`, which knows of Unix sockets only.
        .build_transport(false)
        // Answers in one order, so that logs and tests read the same every time.
        .btree_map(".")
        .extern_path(
            ".k8s.io.kubelet.pkg.apis.dra.v1beta1",
            "crate::generated::dra::v1",
        )
        .extern_path(".v1alpha1", "crate::generated::health::v1")
        .compile_fds(files)?;
    Ok(())
}
