//! Names of nodes, cliques and gangs: cheap to copy, compared by value.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$about:meta])* $type:ident) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $type {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $type {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A node's name.
    NodeName
);
name!(
    /// An NVLink clique as `nvidia.com/gpu.clique` names it: `<cluster UUID>.<clique id>`.
    CliqueId
);
name!(
    /// What names a gang for as long as it lives: the UID of its `ComputeDomain`.
    GangId
);

/// A hash of a name that is the same in every process and version (64-bit FNV-1a).
///
/// It breaks ties between cliques that are equally good, so that plans do not depend on the order in
/// which facts arrived, and first choices do not all fall on the names that sort first.
pub(crate) fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
