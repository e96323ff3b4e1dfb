//! The Helm that renders the chart: the one among the cluster's programs.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use tessera_cluster::paths::checkout;
use tessera_cluster::programs;
use tessera_cluster::progress::Screen;

/// Where it is, after it was built if the cache lacks it.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    programs::obtain(&checkout().join("e2e/programs"), &Screen)?;
    let cache = cache().join("programs");
    let families = fs::read_dir(&cache).with_context(|| format!("read {}", cache.display()))?;
    let mut found = Vec::new();
    for family in families.flatten() {
        let helm = family.path().join("helm");
        if let Ok(written) = fs::metadata(&helm).and_then(|metadata| metadata.modified()) {
            found.push((written, helm));
        }
    }
    let newest = found.into_iter().max().map(|(_, helm)| helm);
    newest.with_context(|| format!("no helm is in {}", cache.display()))
}

fn cache() -> PathBuf {
    let named = |variable| {
        let path = std::env::var_os(variable).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    named("TESSERA_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|dir| dir.join("tessera")))
        .or_else(|| named("HOME").map(|dir| dir.join(".cache/tessera")))
        .unwrap_or_else(|| PathBuf::from("/var/cache/tessera"))
}
