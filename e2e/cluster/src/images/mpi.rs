//! The image of MPI jobs: `OpenMPI` and sshd of the machine's Debian, and a program that says who runs where.
//!
//! It is made of packages and of nothing else, without Docker: downloaded by `apt-get` with all that they need, unpacked, and
//! kept outside of the checkout until its recipe changes. On Ubuntu they are Ubuntu's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::oci::Image;
use super::{ImageError, debian};
use crate::digest;
use crate::packages::{self, Package};
use crate::process::run;
use crate::programs::cache_of_environment;
use crate::progress::{Progress, step};
use crate::ssh::SshKeys;

/// Its own name, and the names of the images of the AWS guide for which it stands: with these the guide's manifests run
/// as they are.
const NAMES: [&str; 3] = [
    "docker.io/tessera/mpi:1",
    "ghcr.io/nvidia/k8s-samples:nvbandwidth-v0.7-8d103163",
    "docker.io/library/ubuntu:22.04",
];

/// What it consists of.
const PACKAGES: [&str; 6] = [
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "openmpi-bin",
    "openssh-server",
];

/// What the hello program is compiled with.
const HEADERS: &str = "libopenmpi-dev";

/// The hello program.
const HELLO: &str = include_str!("mpi/hello.c");

/// This file: another recipe is another image.
const RECIPE: &str = include_str!("mpi.rs");

const COMPILE_LIMIT: Duration = Duration::from_mins(1);

/// How sshd serves the only user of the image. The directory of the keys is a volume that anybody may write to as far as
/// its mode goes, which sshd would not bear.
const SSHD_CONFIG: &str = "\
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
";

/// Hosts are new in each job, so their keys say nothing.
const SSH_CONFIG: &str = "\
Host *
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
";

/// TCP only: what looks for fast networks finds none here, and tells everybody.
const MPI_CONFIG: &str = "\
pml = ob1
btl = self,vader,tcp
mtl = ^psm,psm2,ofi
";

/// Makes the image, unless it was made before, and returns its archive.
pub fn mpi(progress: &dyn Progress) -> Result<PathBuf, ImageError> {
    let images = cache_of_environment().join("images");
    let archive = images.join(key(&fs::read("/etc/os-release").unwrap_or_default()) + ".tar");
    if archive.is_file() {
        return Ok(archive);
    }
    packages::ensure(&[Package::Compiler], progress)?;
    step(progress, "make the image of MPI jobs", || {
        let work = fs::create_dir_all(&images)
            .and_then(|()| tempfile::tempdir_in(&images))
            .map_err(|source| ImageError::Write {
                path: images.clone(),
                source,
            })?;
        build(work.path())?.write(&archive)
    })?;
    Ok(archive)
}

/// What the archive is kept under: the recipe, the release of the machine's packages and its architecture.
fn key(os_release: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [
        RECIPE.as_bytes(),
        HELLO.as_bytes(),
        os_release,
        std::env::consts::ARCH.as_bytes(),
    ] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    format!("mpi-{}", digest::hex(&hash.finalize()[..8]))
}

fn build(work: &Path) -> Result<Image, ImageError> {
    let packages = debian::download(&PACKAGES, work)?;
    let hello = compile(&packages, work)?;
    let keys = SshKeys::generate()?;
    let [name, aliases @ ..] = NAMES;
    let empty = aliases
        .iter()
        .fold(Image::new(name), |image, alias| image.also_named(alias));
    let image = debian::add_packages(empty, &packages, work)?
        .command(&["/bin/bash"])
        // Root is the one user there is, and mpirun asks twice whether that is meant.
        .variable("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .variable("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .directory("/root", 0o700)
        .directory("/tmp", 0o1777)
        .directory("/proc", 0o555)
        .directory("/sys", 0o555)
        .directory("/dev", 0o755)
        .directory("/run/sshd", 0o755)
        .file(
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/bin/false\n",
        )
        .file("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
        .file("/etc/ssh/sshd_config", 0o644, SSHD_CONFIG)
        .file("/etc/ssh/ssh_config", 0o644, SSH_CONFIG)
        .file("/etc/ssh/ssh_host_ecdsa_key", 0o600, keys.private_pem)
        .file("/etc/openmpi/openmpi-mca-params.conf", 0o644, MPI_CONFIG)
        .link("/usr/bin/sh", "dash")
        .link("/usr/bin/mpirun", "mpirun.openmpi")
        .program("/usr/local/bin/hello", &hello)?
        // The program that the guide's image is for. This one measures nothing.
        .link("/usr/local/bin/nvbandwidth", "hello");
    Ok(image)
}

/// Compiles the hello program against the library that the image has.
fn compile(packages: &[PathBuf], work: &Path) -> Result<PathBuf, ImageError> {
    let root = work.join("headers");
    debian::unpack(&debian::download_alone(HEADERS, work)?, &root)?;
    let is_library = |package: &&PathBuf| {
        let name = package.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("libopenmpi")
    };
    for package in packages.iter().filter(is_library) {
        debian::unpack(package, &root)?;
    }
    let (source, program) = (work.join("hello.c"), work.join("hello"));
    fs::write(&source, HELLO).map_err(|error| ImageError::Write {
        path: source.clone(),
        source: error,
    })?;
    let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let mut compiler = Command::new("gcc");
    compiler
        .args(["-O1", "-Wall", "-o"])
        .arg(&program)
        .arg("-I")
        .arg(libraries.join("openmpi/include"))
        .arg(&source)
        .arg("-L")
        .arg(&libraries)
        // The name that the library has had since OpenMPI 2; what it needs itself is in the image.
        .args(["-l:libmpi.so.40", "-Wl,--allow-shlib-undefined"]);
    run(&mut compiler, COMPILE_LIMIT).map_err(ImageError::Compile)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_release_of_the_machine_has_another_image() {
        assert_eq!(key(b"ID=debian"), key(b"ID=debian"));
        assert_ne!(key(b"ID=debian"), key(b"ID=ubuntu"));
    }
}
