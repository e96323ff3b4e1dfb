//! Builds packages of this workspace and tells where the results lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::paths::checkout;
use crate::platform::Platform;
use crate::process::{RunError, run};

/// A release build of everything from nothing takes minutes on two cores.
const BUILD_LIMIT: Duration = Duration::from_mins(30);

/// How our own programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Quick to build.
    #[default]
    Dev,
    /// As shipped.
    Release,
}

/// How a program finds its libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linking {
    /// The C library is the image's.
    Dynamic,
    /// Everything inside: it runs in any container.
    Static,
}

/// Our own programs could not be built.
#[derive(Debug, thiserror::Error)]
pub enum CargoError {
    /// Cargo failed.
    #[error("build {packages}")]
    Build {
        /// The packages.
        packages: String,
        /// Why.
        source: RunError,
    },
    /// Cargo succeeded, but one result is not among what it made.
    #[error("build {package}: cargo made no {file}")]
    NoSuchResult {
        /// The packages.
        package: String,
        /// The file that was looked for.
        file: String,
    },
}

/// What one build made, by the target's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    packages: String,
    files: BTreeMap<String, PathBuf>,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Cargo, as if called from a shell.
///
/// `cargo run` tells its program about the program's package in variables of its own. Build scripts
/// that look at them would see other values than in a shell, and half of the workspace would be
/// built anew with each change of the caller.
pub fn command() -> Command {
    let own = |name: &str| {
        name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || [
                "CARGO_BIN_NAME",
                "CARGO_CRATE_NAME",
                "CARGO_PRIMARY_PACKAGE",
            ]
            .contains(&name)
    };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(own) {
            command.env_remove(name);
        }
    }
    command
}

/// Builds programs of the workspace, quick to build.
///
/// By their names and not their packages': then their dependencies have the features that the whole workspace wants, and
/// what is compiled for them is compiled for everything else.
pub(crate) fn programs(names: &[&str]) -> Result<Built, CargoError> {
    let mut command = builder();
    for name in names {
        command.args(["--bin", name]);
    }
    built(names, &mut command)
}

/// Builds the packages' programs and libraries.
pub(crate) fn build(
    packages: &[&str],
    profile: Profile,
    linking: Linking,
    platform: Platform,
) -> Result<Built, CargoError> {
    let mut command = builder();
    for package in packages {
        command.args(["--package", package]);
    }
    if profile == Profile::Release {
        command.arg("--release");
    }
    if linking == Linking::Static {
        link_statically(&mut command, platform);
    }
    platform.aim(&mut command);
    built(packages, &mut command)
}

/// `cargo build` that tells what it made.
fn builder() -> Command {
    let mut command = command();
    command.current_dir(checkout()).args([
        "build",
        "--quiet",
        "--message-format=json-render-diagnostics",
    ]);
    command
}

fn built(what: &[&str], command: &mut Command) -> Result<Built, CargoError> {
    let packages = what.join(", ");
    match run(command, BUILD_LIMIT) {
        Ok(messages) => Ok(Built {
            packages,
            files: results(&messages),
        }),
        Err(source) => Err(CargoError::Build { packages, source }),
    }
}

/// With a target named, its flags reach the product only and not build scripts and macros, which cannot be static.
fn link_statically(command: &mut Command, platform: Platform) {
    if platform == Platform::HERE {
        command.args(["--target", platform.triple()]);
    }
    platform.link_statically(command);
}

fn results(messages: &str) -> BTreeMap<String, PathBuf> {
    let artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let named = artifacts
        .filter(|message| message.reason == "compiler-artifact")
        .filter_map(|message| {
            let library = message
                .filenames
                .into_iter()
                .find(|file| file.extension().is_some_and(|e| e == "so"));
            Some((message.target?.name, message.executable.or(library)?))
        });
    named.collect()
}

impl Built {
    /// The program, or the shared library, of this target.
    pub(crate) fn file(&self, target: &str) -> Result<&Path, CargoError> {
        let missing = || CargoError::NoSuchResult {
            package: self.packages.clone(),
            file: target.to_owned(),
        };
        self.files
            .get(target)
            .map(PathBuf::as_path)
            .ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_shared_libraries_are_found_in_cargos_messages_and_the_rest_is_not() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"serde"},"filenames":["/t/libserde.rlib"],"executable":null}
{"reason":"compiler-artifact","target":{"name":"nvidia_ml"},"filenames":["/t/libnvidia_ml.so"],"executable":null}
{"reason":"compiler-artifact","target":{"name":"nvidia-smi"},"filenames":["/t/nvidia-smi"],"executable":"/t/nvidia-smi"}
{"reason":"build-script-executed","target":{"name":"x"}}
not json
{"reason":"build-finished","success":true}"#;
        let built = Built {
            packages: "p".to_owned(),
            files: results(messages),
        };
        assert_eq!(
            built.file("nvidia_ml").unwrap(),
            Path::new("/t/libnvidia_ml.so")
        );
        assert_eq!(
            built.file("nvidia-smi").unwrap(),
            Path::new("/t/nvidia-smi")
        );
        assert_eq!(
            built.file("serde").unwrap_err().to_string(),
            "build p: cargo made no serde"
        );
    }
}
