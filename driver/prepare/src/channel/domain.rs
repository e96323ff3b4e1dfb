//! Which compute domain is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest UID taken, as for claims: the API server's have 36 characters.
const UID_MAX: usize = 64;

/// A text that cannot be the UID of a compute domain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("ComputeDomain UID {0:?} is not 1 to {UID_MAX} of A-Z, a-z, 0-9 and '-'")]
pub struct DomainUidError(String);

/// The UID of a compute domain.
///
/// A claim's user writes it, and it becomes the value of a variable in a container: it is held to
/// letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainUid(String);

impl DomainUid {
    /// The UID as the API carries it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainUid {
    type Err = DomainUidError;

    fn from_str(text: &str) -> Result<Self, DomainUidError> {
        let valid = (1..=UID_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| DomainUidError(text.chars().take(UID_MAX).collect()))
    }
}

impl TryFrom<String> for DomainUid {
    type Error = DomainUidError;

    fn try_from(text: String) -> Result<Self, DomainUidError> {
        text.parse()
    }
}

impl From<DomainUid> for String {
    fn from(uid: DomainUid) -> Self {
        uid.0
    }
}

impl fmt::Display for DomainUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
