//! Whether a spec still describes the driver that is installed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::DriverInstall;

/// Whether the libraries that a spec mounts are those of this installation, or the bytes are no
/// spec that says so.
///
/// The libraries carry the driver's version in their names. A spec that mounts others names files
/// that are not there: running containers keep what they have open, but none can be started by it.
/// Everything else in the spec is left out of account, so that it is not rewritten because another
/// version of this program would render it otherwise.
pub fn is_current(spec: &[u8], install: &DriverInstall) -> bool {
    let Ok(spec) = serde_json::from_slice::<Value>(spec) else {
        return true;
    };
    let Some(mounts) = spec["containerEdits"]["mounts"].as_array() else {
        return true;
    };
    let mounted: BTreeSet<&str> = mounts
        .iter()
        .filter(|mount| mount["containerPath"].as_str().is_some_and(is_library))
        .filter_map(|mount| mount["hostPath"].as_str())
        .collect();
    let installed: BTreeSet<&str> = install
        .libraries
        .iter()
        .filter(|library| is_library(&library.container))
        .map(|library| library.host.as_str())
        .collect();
    mounted == installed
}

fn is_library(path: &str) -> bool {
    path.rsplit('/')
        .next()
        .is_some_and(|name| name.contains(".so."))
}

#[cfg(test)]
mod tests {
    use tessera_device::testing::gpu;

    use super::super::{CdiKind, DriverFile, GpuEdits, claim_spec};
    use super::*;

    fn install(names: &[&str]) -> DriverInstall {
        let file = |name: &&str| DriverFile {
            host: format!("/run/nvidia/driver/usr/lib64/{name}"),
            container: format!("/usr/lib64/{name}"),
        };
        DriverInstall {
            libraries: names.iter().map(file).collect(),
            binaries: vec![file(&"nvidia-smi")],
            ..DriverInstall::default()
        }
    }

    #[test]
    fn a_spec_is_current_while_it_mounts_exactly_the_libraries_that_are_installed() {
        let old = install(&["libcuda.so.580", "libnvidia-ml.so.580"]);
        let gpu = gpu(0);
        let gpus = [GpuEdits {
            name: "a-uid-gpu-0".to_owned(),
            gpu: &gpu,
            instance: None,
            variable: None,
            memory_limit: None,
        }];
        let spec = claim_spec(&CdiKind::claim(), &gpus, &old).to_json();
        assert!(is_current(&spec, &old));
        let with_hook = DriverInstall {
            hook: Some("/another/hook".to_owned()),
            ..old
        };
        assert!(is_current(&spec, &with_hook));
        for other in [
            &["libcuda.so.590", "libnvidia-ml.so.590"][..],
            // An installation that is not complete yet, or was not when the spec was written.
            &["libcuda.so.580"],
            &["libcuda.so.580", "libnvidia-ml.so.580", "libnvcuvid.so.580"],
        ] {
            assert!(!is_current(&spec, &install(other)), "{other:?}");
        }
    }

    #[test]
    fn bytes_that_say_nothing_are_not_called_outdated() {
        for spec in [&b""[..], b"{}", b"[]", br#"{"containerEdits": {}}"#] {
            assert!(is_current(spec, &install(&["libcuda.so.580"])));
        }
    }
}
