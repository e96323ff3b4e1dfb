//! The programs as they are shipped: taken out of the product's image.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use tar::{Archive, Entry};

/// The kubelet plugin.
pub(crate) const PLUGIN: &str = "tessera-kubelet-plugin";
/// The controller.
pub(crate) const CONTROLLER: &str = "tessera-controller";
/// What supervises NVLink sessions.
pub(crate) const SESSION_HOST: &str = "tessera-session-host";
/// The CDI hook.
pub(crate) const HOOK: &str = "tessera-cdi-hook";

/// Where an OCI archive keeps its contents, layers among them.
const BLOBS: &str = "blobs/sha256/";

/// Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) plugin: u64,
    pub(crate) controller: u64,
    pub(crate) hook: u64,
    /// The whole archive; its layer is not compressed.
    pub(crate) image: u64,
}

/// Puts the programs of the image into a directory and says how large everything is.
pub(crate) fn unpack(archive: &Path, into: &Path) -> anyhow::Result<Sizes> {
    let reading = || format!("read the image {}", archive.display());
    let file = File::open(archive).with_context(reading)?;
    let image = file.metadata().with_context(reading)?.len();
    let mut sizes = BTreeMap::new();
    for entry in Archive::new(file).entries().with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if entry.path().is_ok_and(|path| path.starts_with(BLOBS)) {
            sizes.extend(unpack_layer(entry, into).with_context(reading)?);
        }
    }
    let size = |program: &str| {
        let size = sizes.get(program).copied();
        size.with_context(|| format!("find {program} in the image {}", archive.display()))
    };
    Ok(Sizes {
        plugin: size(PLUGIN)?,
        controller: size(CONTROLLER)?,
        hook: size(HOOK)?,
        image,
    })
}

/// Puts everything that the image has below `root`, as a container sees it.
pub(crate) fn unpack_root(archive: &Path, root: &Path) -> anyhow::Result<()> {
    let reading = || format!("read the image {}", archive.display());
    let file = File::open(archive).with_context(reading)?;
    for entry in Archive::new(file).entries().with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let is_blob = entry.path().is_ok_and(|path| path.starts_with(BLOBS));
        // A blob that is no layer is JSON, which is no tar archive.
        for file in Archive::new(entry)
            .entries()
            .into_iter()
            .flatten()
            .flatten()
        {
            let mut file = file;
            if is_blob {
                file.unpack_in(root).with_context(reading)?;
            }
        }
    }
    Ok(())
}

/// The programs of a blob. One that is no layer has none: the others are JSON, which is no tar archive.
fn unpack_layer(blob: Entry<'_, File>, into: &Path) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for entry in Archive::new(blob).entries()? {
        let Ok(mut entry) = entry else {
            return Ok(sizes);
        };
        let path = entry.path()?.into_owned();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| [PLUGIN, CONTROLLER, HOOK].contains(name)) else {
            continue;
        };
        let size = entry.size();
        entry.unpack(into.join(name))?;
        sizes.insert(name.to_owned(), size);
    }
    Ok(sizes)
}
