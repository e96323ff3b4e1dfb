//! The release of a server, as far as a defect of one has to be known.
//!
//! What a server has is seen by what it serves and keeps. What it does wrong is not.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The first release whose scheduler counts the shares of a device together with its counters, also
/// after it was started anew (Kubernetes #139034, fixed in 1.36.2 and not in 1.35).
pub const COUNTS_SHARES: Release = Release {
    major: 1,
    minor: 36,
    patch: 2,
};

/// A release of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u32,
    minor: u32,
    patch: u32,
}

/// A text that names no release.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no release of Kubernetes such as v1.36.3")]
pub struct ReleaseError(String);

impl Release {
    /// Whether devices can be given away in shares by this release's scheduler.
    pub fn counts_shares(self) -> bool {
        self >= COUNTS_SHARES
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            major,
            minor,
            patch,
        } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl FromStr for Release {
    type Err = ReleaseError;

    /// From what a server says as `gitVersion`. What distributors append is not looked at; a release
    /// before the one that it precedes (`-alpha`, `-beta`, `-rc`) counts as that one.
    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        let numbers = text.strip_prefix('v').unwrap_or(text);
        let numbers = numbers.split(['-', '+']).next().unwrap_or_default();
        let numbers: Option<Vec<u32>> = numbers.split('.').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([major, minor, patch]) => Ok(Self {
                major: *major,
                minor: *minor,
                patch: *patch,
            }),
            _ => Err(ReleaseError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_from_the_release_on_that_put_it_right() {
        for (text, expected) in [
            ("v1.36.2", true),
            ("v1.36.3", true),
            ("v1.37.0-rc.1", true),
            ("v1.36.3-eks-abcdef0", true),
            ("v1.36.2+k3s1", true),
            ("v2.0.0", true),
            ("v1.36.1", false),
            ("v1.36.0", false),
            ("v1.35.9", false),
            ("v1.34.0+rke2r1", false),
        ] {
            let release: Release = text.parse().unwrap();
            assert_eq!(release.counts_shares(), expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_release_is_an_error_that_shows_it() {
        for bad in [
            "",
            "v",
            "1.36",
            "v1.36.x",
            "v1.36.2.1",
            "v-1.36.2",
            "latest",
        ] {
            let error = bad.parse::<Release>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}
