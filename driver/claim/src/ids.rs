//! Which claim is meant.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest UID taken. The API server makes UUIDs of 36 characters; the room above that is for
/// other makers, and keeps every file name built from a UID far below the limit of 255.
const UID_MAX: usize = 64;

/// A text that cannot be the UID of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("claim UID {0:?} is not 1 to {UID_MAX} of A-Z, a-z, 0-9 and '-'")]
pub struct UidError(String);

/// The UID of a claim.
///
/// It names files and CDI devices, so it is held to letters, digits and dashes: whatever reaches
/// the socket, no path can be built from it that leaves its directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClaimUid(String);

impl ClaimUid {
    /// The UID as the API carries it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClaimUid {
    type Err = UidError;

    fn from_str(text: &str) -> Result<Self, UidError> {
        let valid = (1..=UID_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| UidError(text.to_owned()))
    }
}

impl TryFrom<String> for ClaimUid {
    type Error = UidError;

    fn try_from(text: String) -> Result<Self, UidError> {
        text.parse()
    }
}

impl From<ClaimUid> for String {
    fn from(uid: ClaimUid) -> Self {
        uid.0
    }
}

impl fmt::Display for ClaimUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A claim by name and by UID: the name finds it, the UID says whether it is still the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClaimRef {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
    /// UID of this very object; a claim made anew under the name has another.
    pub uid: ClaimUid,
}

impl ClaimRef {
    /// Whether `claim`, which the API has under the name, is this very object.
    pub(crate) fn is(&self, claim: &ResourceClaim) -> bool {
        claim.metadata.uid.as_deref() == Some(self.uid.as_str())
    }
}

impl fmt::Display for ClaimRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            uid,
        } = self;
        write!(f, "{namespace}/{name} (UID {uid})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_uid_can_name_a_file_elsewhere(text: String) {
            if let Ok(uid) = text.parse::<ClaimUid>() {
                prop_assert!(!uid.as_str().contains(['/', '.', '\0']));
                prop_assert!(!uid.as_str().is_empty());
            }
        }
    }

    #[test]
    fn an_api_server_uid_is_taken_and_a_path_is_refused() {
        assert!(
            "0ddc7d64-6bb6-4a7c-8b7c-3b1c3c0a9f6e"
                .parse::<ClaimUid>()
                .is_ok()
        );
        for bad in ["", "..", "a/b", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<ClaimUid>().is_err(), "{bad:?}");
        }
    }
}
