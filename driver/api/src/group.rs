//! The API group of the configuration kinds: that of the reference driver, so that manifests for it work here.

/// The group.
pub const GROUP: &str = "resource.nvidia.com";

/// Its only version.
pub const VERSION: &str = "v1beta1";

/// What `apiVersion` says: group and version.
pub const API_VERSION: &str = "resource.nvidia.com/v1beta1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_version_is_group_and_version() {
        assert_eq!(API_VERSION, format!("{GROUP}/{VERSION}"));
    }
}
