//! `cargo xtask image`: the product's image as an archive.

use std::path::PathBuf;

use tessera_cluster::images::{self, TesseraImage};
use tessera_cluster::paths::checkout;
use tessera_cluster::progress::{Progress, Screen};
use tessera_cluster::{Platform, Profile};

use crate::profile::ImageProfile;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How the programs are compiled: quick to build, or as shipped.
    #[arg(long, value_enum, default_value_t = ImageProfile::Dev)]
    profile: ImageProfile,
    /// For which machine: linux/amd64 or linux/arm64. For another than this one, Debian's compiler and libraries are used.
    #[arg(long, default_value_t = Platform::HERE)]
    platform: Platform,
    /// Where the archive goes; `target/images/` by default.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let image = build_for(
        arguments.platform,
        arguments.profile.into(),
        arguments.out.clone(),
        &Screen,
    )?;
    println!("{} in {}", image.name, image.archive.display());
    Ok(())
}

/// Builds the image for this machine; the archive goes to its usual place if none is named.
pub(crate) fn build(
    profile: Profile,
    out: Option<PathBuf>,
    progress: &dyn Progress,
) -> anyhow::Result<TesseraImage> {
    build_for(Platform::HERE, profile, out, progress)
}

/// Builds the image for a machine.
pub(crate) fn build_for(
    platform: Platform,
    profile: Profile,
    out: Option<PathBuf>,
    progress: &dyn Progress,
) -> anyhow::Result<TesseraImage> {
    let file = match platform {
        Platform::HERE => "tessera.tar".to_owned(),
        other => format!("tessera-{}.tar", other.to_string().replace('/', "-")),
    };
    let archive = out.unwrap_or_else(|| checkout().join("target/images").join(file));
    Ok(images::tessera(profile, platform, &archive, progress)?)
}
