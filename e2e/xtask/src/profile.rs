//! How the product in an image is compiled, as these commands take it.

use clap::ValueEnum;
use tessera_cluster::Profile;

/// How the product is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageProfile {
    /// Quick to build.
    Dev,
    /// As shipped.
    Release,
}

impl From<ImageProfile> for Profile {
    fn from(profile: ImageProfile) -> Self {
        match profile {
            ImageProfile::Dev => Self::Dev,
            ImageProfile::Release => Self::Release,
        }
    }
}
