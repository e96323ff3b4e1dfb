//! The API groups: that of the reference driver, so that manifests for it work here, and one of our own.

/// The group.
pub const GROUP: &str = "resource.nvidia.com";

/// Its only version.
pub const VERSION: &str = "v1beta1";

/// What `apiVersion` says: group and version.
pub const API_VERSION: &str = "resource.nvidia.com/v1beta1";

/// The group of what the reference driver does not have: kinds, annotations, labels and taints of our own.
///
/// They never become fields of the reference's kinds: its next release could give them another meaning, and
/// under its CRDs they would be pruned.
pub const OWN_GROUP: &str = "tessera-dra.github.io";

/// The only version of our own group.
pub const OWN_VERSION: &str = "v1alpha1";

/// Group and version of our own kinds.
pub const OWN_API_VERSION: &str = "tessera-dra.github.io/v1alpha1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_version_is_group_and_version() {
        assert_eq!(API_VERSION, format!("{GROUP}/{VERSION}"));
        assert_eq!(OWN_API_VERSION, format!("{OWN_GROUP}/{OWN_VERSION}"));
    }
}
