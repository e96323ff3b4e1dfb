//! The versions that are spoken, and which of them to speak to a server.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The API group.
pub const GROUP: &str = "resource.k8s.io";

/// A version of the resource API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// Since 1.32, where it is switched on. Requests and devices have another shape.
    V1beta1,
    /// Since 1.33, where it is switched on. As `v1` but for its name.
    V1beta2,
    /// Since 1.34.
    V1,
}

/// A text that is no version of the resource API that is spoken here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no version of {GROUP} that is spoken here; write v1, v1beta2 or v1beta1")]
pub struct VersionError(String);

impl Version {
    /// All of them, the newest first.
    pub const ALL: [Self; 3] = [Self::V1, Self::V1beta2, Self::V1beta1];

    /// The name without the group.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1beta1 => "v1beta1",
            Self::V1beta2 => "v1beta2",
            Self::V1 => "v1",
        }
    }

    /// What objects carry as `apiVersion`.
    pub fn api_version(self) -> String {
        format!("{GROUP}/{self}")
    }

    /// The newest of the versions that a server says it serves.
    pub fn newest<'a>(served: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let known = served.into_iter().filter_map(|name| name.parse().ok());
        known.max()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = VersionError;

    /// With or without the group.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let group = text.strip_prefix(GROUP);
        let name = group
            .and_then(|rest| rest.strip_prefix('/'))
            .unwrap_or(text);
        let mut all = Self::ALL.into_iter();
        let found = all.find(|version| version.as_str() == name);
        found.ok_or_else(|| VersionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_sides_know_is_spoken() {
        for (served, expected) in [
            (&["v1", "v1beta2", "v1beta1"][..], Some(Version::V1)),
            (&["v1beta1", "v1"], Some(Version::V1)),
            // 1.33, with both switched on or one.
            (&["v1beta1", "v1beta2"], Some(Version::V1beta2)),
            (&["v1alpha3", "v1beta1"], Some(Version::V1beta1)),
            (&["v1alpha3"], None),
            (&["v2", "v1"], Some(Version::V1)),
            (&[], None),
        ] {
            assert_eq!(
                Version::newest(served.iter().copied()),
                expected,
                "{served:?}"
            );
        }
    }

    #[test]
    fn a_version_is_read_with_and_without_its_group() {
        for version in Version::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
            assert_eq!(version.api_version().parse(), Ok(version));
        }
        for bad in [
            "",
            "v1alpha3",
            "apps/v1",
            "resource.k8s.io/",
            "resource.k8s.iov1",
        ] {
            let error = bad.parse::<Version>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}
