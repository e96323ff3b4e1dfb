//! What the machine itself must offer: named where it lacks something, and installed where that is known to work.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::apt;
use crate::platform::Platform;
use crate::process::{self, RunError, run};
use crate::progress::{Progress, step};

const PROBE_LIMIT: Duration = Duration::from_secs(10);
const INSTALL_LIMIT: Duration = Duration::from_mins(10);

/// Something that a distribution packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Package {
    /// `ip`.
    Iproute,
    /// `nsenter`, `unshare`.
    UtilLinux,
    /// The shell and tools in the workload image.
    Busybox,
    /// A C compiler, for runc.
    Compiler,
    /// `pkg-config`, for runc.
    PkgConfig,
    /// Headers of libseccomp, for runc.
    LibseccompHeaders,
    /// A C compiler for aarch64.
    ArmCompiler,
    /// The C library of aarch64.
    ArmLibc,
    /// A Rust compiler with a library for aarch64.
    ArmRust,
    /// What runs programs of aarch64.
    Emulator,
}

/// The machine lacks something.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// Not a distribution whose packages are known here.
    #[error("prepare this machine: it lacks {}; install with its package manager what Debian calls {packages}", things.join(", "))]
    Missing {
        /// In words.
        things: Vec<&'static str>,
        /// Debian's names.
        packages: String,
    },
    /// The package manager failed.
    #[error("install {packages} (or do it by hand and start again)")]
    Install {
        /// Debian's names.
        packages: String,
        /// Why.
        source: RunError,
    },
}

impl Package {
    fn debian(self) -> &'static [&'static str] {
        match self {
            Self::Iproute => &["iproute2"],
            Self::UtilLinux => &["util-linux"],
            Self::Busybox => &["busybox-static"],
            Self::Compiler => &["gcc"],
            Self::PkgConfig => &["pkg-config"],
            Self::LibseccompHeaders => &["libseccomp-dev"],
            Self::ArmCompiler => &["gcc-aarch64-linux-gnu"],
            Self::ArmLibc => &["libc6-dev-arm64-cross"],
            Self::ArmRust => &["rustc-web", "libstd-rust-web-dev:arm64"],
            Self::Emulator => &["qemu-user-static"],
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Iproute => "the command ip",
            Self::UtilLinux => "the commands nsenter and unshare",
            Self::Busybox => "the command busybox",
            Self::Compiler => "the C compiler gcc",
            Self::PkgConfig => "the command pkg-config",
            Self::LibseccompHeaders => "the headers of libseccomp",
            Self::ArmCompiler => "a C compiler for aarch64",
            Self::ArmLibc => "the C library of aarch64",
            Self::ArmRust => "a Rust compiler with a library for aarch64",
            Self::Emulator => "the command qemu-aarch64-static",
        }
    }

    fn is_there(self) -> bool {
        let commands: &[&str] = match self {
            Self::Iproute => &["ip"],
            Self::UtilLinux => &["nsenter", "unshare"],
            Self::Busybox => &["busybox"],
            Self::Compiler => &["gcc"],
            Self::PkgConfig => &["pkg-config"],
            Self::LibseccompHeaders => {
                let mut probe = Command::new("pkg-config");
                return run(probe.args(["--exists", "libseccomp"]), PROBE_LIMIT).is_ok();
            }
            Self::ArmCompiler => &["aarch64-linux-gnu-gcc"],
            Self::ArmLibc => return Path::new("/usr/aarch64-linux-gnu/lib/libc.so.6").exists(),
            Self::ArmRust => return has_rust_for_arm(),
            Self::Emulator => &["qemu-aarch64-static"],
        };
        commands
            .iter()
            .all(|command| process::find(command).is_some())
    }
}

/// Returns when all of `wanted` are there, installing what is missing on Debian and its descendants.
pub(crate) fn ensure(wanted: &[Package], progress: &dyn Progress) -> Result<(), PackagesError> {
    let missing: Vec<_> = wanted
        .iter()
        .copied()
        .filter(|package| !package.is_there())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing
        .iter()
        .flat_map(|package| package.debian().iter().copied())
        .collect::<Vec<_>>();
    let names = packages.join(" ");
    if !is_debian(&fs::read_to_string(Path::new("/etc/os-release")).unwrap_or_default()) {
        let things = missing.iter().map(|package| package.in_words()).collect();
        return Err(PackagesError::Missing {
            things,
            packages: names,
        });
    }
    step(progress, &format!("install {names}"), || install(&packages)).map_err(|source| {
        PackagesError::Install {
            packages: names,
            source,
        }
    })
}

fn has_rust_for_arm() -> bool {
    let mut probe = Command::new("/usr/bin/rustc");
    let target = Platform::LinuxArm64.triple();
    let found = run(
        probe.args(["--print", "target-libdir", "--target", target]),
        PROBE_LIMIT,
    );
    found.is_ok_and(|directory| Path::new(directory.trim()).is_dir())
}

fn install(packages: &[&str]) -> Result<(), RunError> {
    if packages.iter().any(|package| package.ends_with(":arm64")) {
        let mut command = Command::new("dpkg");
        run(command.args(["--add-architecture", "arm64"]), PROBE_LIMIT)?;
    }
    let wanted = [
        &["install", "-y", "-q", "--no-install-recommends"],
        packages,
    ]
    .concat();
    apt::get(&wanted, Path::new("/"), INSTALL_LIMIT)
}

/// Whether an `os-release` file is that of Debian or a distribution that calls itself like it.
fn is_debian(os_release: &str) -> bool {
    let values = os_release.lines().filter_map(|line| line.split_once('='));
    values
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .any(|(_, value)| {
            value
                .trim_matches('"')
                .split_whitespace()
                .any(|name| name == "debian")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_what_is_like_it_is_known_by_its_release_file() {
        for (text, known) in [
            ("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n", true),
            ("ID=ubuntu\nID_LIKE=debian\n", true),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", true),
            ("ID=fedora\n", false),
            ("NAME=debian\nID=arch\n", false),
            ("", false),
        ] {
            assert_eq!(is_debian(text), known, "{text:?}");
        }
    }

    #[test]
    fn a_package_that_every_linux_has_is_found() {
        assert!(Package::UtilLinux.is_there());
    }
}
