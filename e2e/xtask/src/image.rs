//! `cargo xtask image`: the product's image as an archive.

use std::path::PathBuf;

use tessera_cluster::Profile;
use tessera_cluster::images::{self, TesseraImage};
use tessera_cluster::paths::checkout;
use tessera_cluster::progress::{Progress, Screen};

use crate::profile::ImageProfile;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How the programs are compiled: quick to build, or as shipped.
    #[arg(long, value_enum, default_value_t = ImageProfile::Dev)]
    profile: ImageProfile,
    /// Where the archive goes; `target/images/` by default.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let image = build(arguments.profile.into(), arguments.out.clone(), &Screen)?;
    println!("{} in {}", image.name, image.archive.display());
    Ok(())
}

/// Builds the image; the archive goes to its usual place if none is named.
pub(crate) fn build(
    profile: Profile,
    out: Option<PathBuf>,
    progress: &dyn Progress,
) -> anyhow::Result<TesseraImage> {
    let archive = out.unwrap_or_else(|| checkout().join("target/images/tessera.tar"));
    Ok(images::tessera(profile, &archive, progress)?)
}
