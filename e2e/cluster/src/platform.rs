//! The machines for which the product is built.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use crate::packages::{Package, PackagesError, ensure};
use crate::progress::Progress;

/// Debian's compiler. The one that a toolchain file chooses comes with no library for another machine, and Debian
/// has one.
const OTHER_RUSTC: &str = "/usr/bin/rustc";

/// What Debian calls the C compiler, whose libraries lie below [`SYSROOT`].
const OTHER_LINKER: &str = "aarch64-linux-gnu-gcc";

/// Where Debian has the C library for the other machine.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// Runs a program of the other machine.
const EMULATOR: &str = "qemu-aarch64-static";

/// A machine as images name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// x86-64.
    LinuxAmd64,
    /// aarch64, as Grace and Graviton have it.
    LinuxArm64,
}

/// Not a machine for which the product is built.
#[derive(Debug, thiserror::Error)]
#[error("platform {0}: use linux/amd64 or linux/arm64")]
pub struct UnknownPlatform(String);

/// The product cannot be built for another machine here.
#[derive(Debug, thiserror::Error)]
pub enum CrossError {
    /// Only one direction has the packages.
    #[error(
        "build for {wanted} on {here}: only linux/arm64 on linux/amd64 is known to work; build it on such a machine"
    )]
    Direction {
        /// For which.
        wanted: Platform,
        /// On which.
        here: Platform,
    },
    /// The machine lacks a part of the tools.
    #[error(transparent)]
    Packages(#[from] PackagesError),
}

impl Platform {
    /// The machine on which this runs.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") {
        Self::LinuxArm64
    } else {
        Self::LinuxAmd64
    };

    /// Its name in Go, which images carry.
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Self::LinuxAmd64 => "amd64",
            Self::LinuxArm64 => "arm64",
        }
    }

    /// Its name in Rust.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::LinuxAmd64 => "x86_64-unknown-linux-gnu",
            Self::LinuxArm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Sees to it that what is built for it here can be built and run.
    pub fn prepare(self, progress: &dyn Progress) -> Result<(), CrossError> {
        if self == Self::HERE {
            return Ok(());
        }
        if self != Self::LinuxArm64 {
            let (wanted, here) = (self, Self::HERE);
            return Err(CrossError::Direction { wanted, here });
        }
        let tools = [
            Package::ArmCompiler,
            Package::ArmLibc,
            Package::ArmRust,
            Package::Emulator,
        ];
        Ok(ensure(&tools, progress)?)
    }

    /// Has cargo build for it, into a directory of its own: the compiler is another one.
    pub fn aim(self, cargo: &mut Command) {
        if self == Self::HERE {
            return;
        }
        let variable = |what: &str| format!("CARGO_TARGET_{}_{what}", self.variable());
        cargo
            .args(["--target", self.triple()])
            .args(["--target-dir", &format!("target/{}", self.directory())])
            .env("RUSTC", OTHER_RUSTC)
            .env(variable("LINKER"), OTHER_LINKER)
            .env(variable("RUNNER"), format!("{EMULATOR} -L {SYSROOT}"));
    }

    /// Has cargo link everything into each program. That is also what the emulator wants of one with threads: with a loader,
    /// version 7.2 of it never comes back from starting the first.
    pub fn link_statically(self, cargo: &mut Command) {
        let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", self.variable());
        cargo
            .env(variable, "-C target-feature=+crt-static")
            .env_remove("RUSTFLAGS");
    }

    /// Its name in cargo's variables.
    pub(crate) fn variable(self) -> String {
        self.triple().to_uppercase().replace('-', "_")
    }

    /// Runs a program whose libraries lie below `root`.
    pub fn run(self, root: &Path, program: &Path) -> Command {
        if self == Self::HERE {
            return Command::new(program);
        }
        let mut command = Command::new(EMULATOR);
        command.arg("-L").arg(root).arg(program);
        command
    }

    fn directory(self) -> String {
        self.to_string().replace('/', "-")
    }

    /// The loader's list of the libraries that a program needs.
    pub(crate) fn list_libraries(self, program: &Path) -> Command {
        if self == Self::HERE {
            let mut command = Command::new("ldd");
            command.arg(program);
            return command;
        }
        let mut command = Command::new(EMULATOR);
        command
            .arg(format!("{SYSROOT}/lib/ld-linux-aarch64.so.1"))
            .args(["--library-path", &format!("{SYSROOT}/lib"), "--list"])
            .arg(program);
        command
    }

    /// Where a library that lies here at `found` lies on a machine of this platform.
    pub(crate) fn place(self, found: &Path) -> String {
        let name = found.file_name().unwrap_or_default().to_string_lossy();
        if self == Self::HERE || !found.starts_with(SYSROOT) {
            found.to_string_lossy().into_owned()
        } else if name.starts_with("ld-linux") {
            format!("/lib/{name}")
        } else {
            format!("/lib/aarch64-linux-gnu/{name}")
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture())
    }
}

impl FromStr for Platform {
    type Err = UnknownPlatform;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::LinuxAmd64, Self::LinuxArm64];
        let named = all
            .into_iter()
            .find(|platform| platform.to_string() == text);
        named.ok_or_else(|| UnknownPlatform(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_named_as_images_name_it() {
        for platform in [Platform::LinuxAmd64, Platform::LinuxArm64] {
            assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
        }
        let error = "linux/riscv64".parse::<Platform>().unwrap_err().to_string();
        assert!(
            error.contains("linux/riscv64") && error.contains("linux/arm64"),
            "{error}"
        );
    }

    #[test]
    fn libraries_of_the_other_machine_go_where_its_loader_looks_for_them() {
        let place = |found: &str| Platform::LinuxArm64.place(Path::new(found));
        assert_eq!(
            place("/usr/aarch64-linux-gnu/lib/libc.so.6"),
            "/lib/aarch64-linux-gnu/libc.so.6"
        );
        assert_eq!(
            place("/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1"),
            "/lib/ld-linux-aarch64.so.1"
        );
        assert_eq!(
            place("/lib/x86_64-linux-gnu/libc.so.6"),
            "/lib/x86_64-linux-gnu/libc.so.6"
        );
    }
}
