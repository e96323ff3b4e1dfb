//! The Helm that renders the chart: the one among the cluster's programs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tessera_cluster::Release;

use super::ahead;

/// Where it is, after it was built if the cache lacks it.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let programs = ahead::obtain(Release::default())?;
    let helm = programs.file("helm").map(Path::to_owned);
    helm.context("Helm is not among the programs of the cluster")
}
