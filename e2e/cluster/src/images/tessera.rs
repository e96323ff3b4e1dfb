//! The product's image: its programs, the C library that they need, and nothing else; no shell.

use std::path::{Path, PathBuf};

use super::ImageError;
use super::libraries::add_libraries;
use super::oci::Image;
use crate::cargo::{self, Linking, Profile};
use crate::platform::Platform;
use crate::progress::{Progress, step};

/// The product's image as an archive on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TesseraImage {
    /// Its full name, with the workspace's version as its tag.
    pub name: String,
    /// The archive.
    pub archive: PathBuf,
}

/// Builds the product's programs and writes their image to `archive`.
///
/// The hook is static because it runs in the node's namespaces, where no C library of ours is.
pub fn tessera(
    profile: Profile,
    platform: Platform,
    archive: &Path,
    progress: &dyn Progress,
) -> Result<TesseraImage, ImageError> {
    platform.prepare(progress)?;
    step(progress, "build the product's image", || {
        let programs = [
            "tessera-kubelet-plugin",
            "tessera-controller",
            "tessera-session-host",
            "tessera-agent",
        ];
        let built = cargo::build(&programs, profile, Linking::Dynamic, platform)?;
        let hook = cargo::build(&["tessera-cdi-hook"], profile, Linking::Static, platform)?;
        let name = format!("docker.io/tessera/tessera:{}", env!("CARGO_PKG_VERSION"));
        let mut image = Image::new(&name)
            .platform(platform)
            .entrypoint(&["/usr/bin/tessera-kubelet-plugin"])
            .directory("/tmp", 0o1777)
            .file(
                "/etc/passwd",
                0o644,
                "root:x:0:0:root:/:/usr/sbin/nologin\n",
            )
            // The names of peers stand in the hosts file, and nobody else is asked for them.
            .file("/etc/nsswitch.conf", 0o644, "hosts: files dns\n")
            .program("/usr/bin/tessera-cdi-hook", hook.file("tessera-cdi-hook")?)?;
        let files = programs.map(|program| built.file(program));
        let mut paths = Vec::new();
        for (program, file) in programs.iter().zip(files) {
            let file = file?;
            image = image.program(&format!("/usr/bin/{program}"), file)?;
            paths.push(file);
        }
        add_libraries(image, &paths, platform)?.write(archive)?;
        Ok(TesseraImage {
            name,
            archive: archive.to_owned(),
        })
    })
}
