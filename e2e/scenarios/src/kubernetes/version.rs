//! Writes and reads objects of the resource API in the version that the cluster's API server has.
//!
//! Scenarios are written in `v1`, and objects are read as `v1`. A release without it has `v1beta2`, which differs in its
//! name alone, so the name is all that is exchanged.

use tessera_cluster::Release;

const GROUP: &str = "resource.k8s.io/";
const WRITTEN: &str = "v1";

/// The version that is spoken to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version(&'static str);

impl Version {
    /// That of a release.
    pub(crate) fn of(release: Release) -> Self {
        Self(release.resource_api())
    }

    /// Manifests as the API server takes them.
    pub(crate) fn write(self, manifests: &str) -> String {
        exchange(manifests, WRITTEN, self.0)
    }

    /// An answer of the API server as the types here take it.
    pub(crate) fn read(self, answer: &str) -> String {
        exchange(answer, self.0, WRITTEN)
    }

    /// The version of an API group in a path, of which `usual` is that of the types here.
    pub(crate) fn in_path<'a>(self, group: &str, usual: &'a str) -> &'a str {
        if GROUP.strip_suffix('/') == Some(group) {
            self.0
        } else {
            usual
        }
    }
}

fn exchange(text: &str, from: &str, to: &str) -> String {
    if from == to {
        return text.to_owned();
    }
    let mut parts = text.split(GROUP);
    let mut exchanged = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        exchanged += GROUP;
        let rest = part.strip_prefix(from);
        // Only a whole name: v1 is the beginning of others.
        match rest.filter(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric())) {
            Some(rest) => {
                exchanged += to;
                exchanged += rest;
            }
            None => exchanged += part,
        }
    }
    exchanged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_of_the_resource_api_is_exchanged_and_only_where_it_has_to_be() {
        let manifests =
            "apiVersion: resource.k8s.io/v1\nkind: ResourceClaim\n---\napiVersion: v1\nkind: Pod\n";
        let old = Version::of(Release::V1_33);
        let written = old.write(manifests);
        assert!(
            written.starts_with("apiVersion: resource.k8s.io/v1beta2\n"),
            "{written}"
        );
        assert!(written.contains("\napiVersion: v1\nkind: Pod"), "{written}");
        assert_eq!(old.read(&written), manifests);
        let other = "{apiVersion: resource.k8s.io/v1alpha3}";
        assert_eq!(old.write(other), other);
        assert_eq!(Version::of(Release::V1_36).write(manifests), manifests);
    }

    #[test]
    fn a_path_has_the_version_of_its_group() {
        let old = Version::of(Release::V1_33);
        assert_eq!(old.in_path("resource.k8s.io", "v1"), "v1beta2");
        assert_eq!(old.in_path("apps", "v1"), "v1");
    }
}
