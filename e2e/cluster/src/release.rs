//! Which Kubernetes the cluster runs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::gates::Gates;
use crate::programs::Family;

/// A minor release of Kubernetes. Each has a Go module of its own, which pins the patch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Release {
    /// 1.33: Dynamic Resource Allocation has to be switched on, and there is no `resource.k8s.io/v1`.
    #[serde(rename = "1.33")]
    V1_33,
    /// 1.34: the first release with `resource.k8s.io/v1`.
    #[serde(rename = "1.34")]
    V1_34,
    /// 1.36: what everything is tested with.
    #[default]
    #[serde(rename = "1.36")]
    V1_36,
}

/// A text that is no release that a cluster can run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("run Kubernetes {text:?}: there are {}", Release::names())]
pub struct ParseReleaseError {
    text: String,
}

impl Release {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V1_33, Self::V1_34, Self::V1_36];

    /// Its minor release, as people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_33 => "1.33",
            Self::V1_34 => "1.34",
            Self::V1_36 => "1.36",
        }
    }

    /// The second number of its version, which counts the releases.
    pub fn minor(self) -> u32 {
        match self {
            Self::V1_33 => 33,
            Self::V1_34 => 34,
            Self::V1_36 => 36,
        }
    }

    /// The version of the resource API in which a test writes and reads objects: the newest that its
    /// API server has. The product finds out for itself.
    pub fn resource_api(self) -> &'static str {
        match self {
            Self::V1_33 => "v1beta2",
            Self::V1_34 | Self::V1_36 => "v1",
        }
    }

    /// The gates that have to be switched on in it, and then those that somebody wants.
    pub(crate) fn gates(self, wanted: &Gates) -> Gates {
        let needed: &[&str] = match self {
            // The second: watches that begin with what is there (KEP-3157), by which tests wait.
            Self::V1_33 => &["DynamicResourceAllocation", "WatchList"],
            Self::V1_34 | Self::V1_36 => &[],
        };
        wanted.with_on(needed)
    }

    /// Its programs.
    pub(crate) fn family(self) -> Family {
        // Set by Kubernetes' own build; without it every version reads v0.0.0 and clients refuse it.
        let (name, set): (_, &[&str]) = match self {
            Self::V1_33 => (
                "kubernetes-1.33",
                &[
                    "k8s.io/component-base/version.gitVersion=v1.33.13",
                    "k8s.io/component-base/version.gitMajor=1",
                    "k8s.io/component-base/version.gitMinor=33",
                ],
            ),
            Self::V1_34 => (
                "kubernetes-1.34",
                &[
                    "k8s.io/component-base/version.gitVersion=v1.34.4",
                    "k8s.io/component-base/version.gitMajor=1",
                    "k8s.io/component-base/version.gitMinor=34",
                ],
            ),
            Self::V1_36 => (
                "kubernetes",
                &[
                    "k8s.io/component-base/version.gitVersion=v1.36.3",
                    "k8s.io/component-base/version.gitMajor=1",
                    "k8s.io/component-base/version.gitMinor=36",
                ],
            ),
        };
        Family::of_kubernetes(name, set)
    }

    fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Release {
    type Err = ParseReleaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|release| release.as_str() == text);
        found.ok_or_else(|| ParseReleaseError {
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_release_is_read_as_it_is_written_and_an_unknown_one_names_those_that_there_are() {
        for release in Release::ALL {
            assert_eq!(release.to_string().parse(), Ok(release));
            let written = serde_json::to_string(&release).unwrap();
            assert_eq!(written, format!("\"{release}\""));
            assert_eq!(release.as_str(), format!("1.{}", release.minor()));
        }
        let error = "1.32".parse::<Release>().unwrap_err();
        assert!(error.to_string().contains("1.33, 1.34, 1.36"), "{error}");
    }

    #[test]
    fn the_version_that_each_release_reports_is_the_one_that_its_module_pins() {
        for release in Release::ALL {
            let family = release.family();
            let module = crate::paths::checkout()
                .join("e2e/programs")
                .join(family.name);
            let text = fs::read_to_string(module.join("go.mod")).unwrap();
            let version = family.set[0].split_once('=').unwrap().1;
            assert!(
                text.contains(&format!("k8s.io/kubernetes {version}\n"))
                    || text.contains(&format!("k8s.io/kubernetes {version} ")),
                "{version}"
            );
            assert!(version.starts_with(&format!("v{release}.")), "{version}");
        }
    }

    #[test]
    fn what_somebody_wants_wins_over_what_a_release_needs() {
        let wanted = "WatchList=false,Other=true".parse().unwrap();
        assert_eq!(
            Release::V1_33.gates(&wanted).to_string(),
            "DynamicResourceAllocation=true,Other=true,WatchList=false"
        );
        assert_eq!(Release::V1_36.gates(&wanted), wanted);
    }
}
