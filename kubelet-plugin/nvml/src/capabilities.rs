//! The capabilities that a program needs to use a MIG device, as the kernel's driver tells them
//!
//! There is a file below `/proc/driver/nvidia/capabilities` for each GPU instance and each compute instance.
//! The device nodes to which they lead are made by `nvidia-modprobe` when a program asks for it, so they
//! may be missing on the host while the files are there; the numbers in the files are enough.

use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use tessera_device::mig::{DeviceNumber, MigAccess};
use thiserror::Error;

/// How the kernel lists the driver of these nodes in `/proc/devices`.
const DRIVER: &str = "nvidia-caps";

/// What a capability's file says of its node.
const MINOR: &str = "DeviceFileMinor:";

/// The capabilities of MIG devices that there are: each folder that the driver has for one, by its path
/// and the kernel's number for it. It differs when another look at the GPUs may find other MIG devices,
/// and costs a few calls for each GPU and each device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(Vec<(PathBuf, u64)>);

impl Listing {
    /// The listing below this procfs. What cannot be looked at counts as absent.
    pub fn of(proc: &Path) -> Self {
        let mut found = Vec::new();
        // Folders of GPUs, `mig` in each, those of GPU instances, those of compute instances.
        list(&proc.join("driver/nvidia/capabilities"), 4, &mut found);
        found.sort();
        Self(found)
    }
}

fn list(folder: &Path, depth: u32, found: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if depth > 1 {
            list(&path, depth - 1, found);
        }
        found.push((path, entry.ino()));
    }
}

/// Why the nodes of a capability are not known.
#[derive(Debug, Error)]
pub enum CapabilityError {
    /// A file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A file does not say what it should.
    #[error("{} has no number behind {what:?}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
}

/// What a process needs to use this compute instance.
pub(crate) fn access(
    proc: &Path,
    gpu_minor: u32,
    gpu_instance: u8,
    compute_instance: u8,
) -> Result<MigAccess, CapabilityError> {
    let folder = format!("driver/nvidia/capabilities/gpu{gpu_minor}/mig/gi{gpu_instance}");
    let folder = proc.join(folder);
    let major = major(&proc.join("devices"))?;
    let number = |file: PathBuf| minor(&file).map(|minor| DeviceNumber { major, minor });
    Ok(MigAccess {
        gpu_instance: number(folder.join("access"))?,
        compute_instance: number(folder.join(format!("ci{compute_instance}/access")))?,
    })
}

fn major(devices: &Path) -> Result<u32, CapabilityError> {
    let number = |line: &str| {
        let (number, name) = line.trim().split_once(' ')?;
        (name == DRIVER).then(|| number.parse().ok())?
    };
    let text = read(devices)?;
    let found = text.lines().find_map(number);
    found.ok_or_else(|| CapabilityError::Format {
        path: devices.to_owned(),
        what: DRIVER,
    })
}

fn minor(file: &Path) -> Result<u32, CapabilityError> {
    let text = read(file)?;
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(MINOR)?.trim().parse().ok());
    found.ok_or_else(|| CapabilityError::Format {
        path: file.to_owned(),
        what: MINOR,
    })
}

fn read(path: &Path) -> Result<String, CapabilityError> {
    fs::read_to_string(path).map_err(|source| CapabilityError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc(devices: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        fs::write(proc.path().join("devices"), devices).unwrap();
        for (file, text) in files {
            let file = proc
                .path()
                .join("driver/nvidia/capabilities/gpu2/mig")
                .join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        proc
    }

    const DEVICES: &str = "Character devices:\n  1 mem\n195 nvidia\n237 nvidia-caps-imex-channels\n\
                           238 nvidia-caps\n\nBlock devices:\n  7 loop\n";

    #[test]
    fn both_nodes_of_a_device_are_named_by_the_files_of_its_instances() {
        let text = |minor| format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\n");
        let files = [("gi1/access", text(282)), ("gi1/ci0/access", text(283))];
        let files = files.each_ref().map(|(file, text)| (*file, text.as_str()));
        let proc = proc(DEVICES, &files);
        let number = |minor| DeviceNumber { major: 238, minor };
        let found = access(proc.path(), 2, 1, 0).unwrap();
        assert_eq!(found.gpu_instance, number(282));
        assert_eq!(found.compute_instance, number(283));
        let error = access(proc.path(), 2, 1, 1).unwrap_err().to_string();
        assert!(error.ends_with("gpu2/mig/gi1/ci1/access"), "{error}");
    }

    #[test]
    fn the_listing_differs_when_an_instance_comes_goes_or_is_made_again() {
        let gi = |proc: &tempfile::TempDir, number: u8| {
            let mig = proc.path().join("driver/nvidia/capabilities/gpu2/mig");
            mig.join(format!("gi{number}"))
        };
        let proc = proc(DEVICES, &[("gi1/access", ""), ("gi1/ci0/access", "")]);
        let first = Listing::of(proc.path());
        assert_eq!(first, Listing::of(proc.path()));
        assert_eq!(first.0.len(), 4);
        fs::create_dir(gi(&proc, 2)).unwrap();
        let second = Listing::of(proc.path());
        assert_ne!(first, second);
        // Its number is taken by another while it is away.
        fs::rename(gi(&proc, 2), proc.path().join("former")).unwrap();
        fs::create_dir(gi(&proc, 2)).unwrap();
        assert_ne!(second, Listing::of(proc.path()));
        let nowhere = Listing::of(&proc.path().join("nowhere"));
        assert_eq!(nowhere, Listing::default());
    }

    #[test]
    fn files_that_say_something_else_are_named() {
        let file = [("gi1/access", "DeviceFileMinor: x\n")];
        let error = access(proc(DEVICES, &file).path(), 2, 1, 0).unwrap_err();
        assert!(error.to_string().contains(MINOR), "{error}");
        let error = access(proc("195 nvidia\n", &[]).path(), 2, 1, 0).unwrap_err();
        assert!(error.to_string().contains("\"nvidia-caps\""), "{error}");
    }
}
