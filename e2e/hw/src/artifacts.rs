//! The programs that an installation consists of, and where tests get them.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Programs built from this workspace that an installation consists of.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The simulated library: `libnvidia_ml.so`.
    pub nvml: PathBuf,
    /// The simulated `nvidia-smi`.
    pub nvidia_smi: PathBuf,
}

/// Why the artifacts are not there.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactsError {
    /// The running program does not say where Cargo put it.
    #[error("find Cargo's target directory: {program} is not a test that Cargo built")]
    Locate {
        /// The running program.
        program: PathBuf,
    },
    /// Cargo could not be started.
    #[error("run cargo")]
    Run(#[from] io::Error),
    /// Cargo failed; what it said stands on standard error.
    #[error("build nvml-sim and nvidia-smi: see cargo's messages above")]
    Build,
}

impl Artifacts {
    /// The artifacts in a directory of Cargo's, such as `target/debug`.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            nvml: directory.join("libnvidia_ml.so"),
            nvidia_smi: directory.join("nvidia-smi"),
        }
    }

    /// Builds the artifacts for a test, in the profile in which Cargo built the test.
    ///
    /// A library of type `cdylib` is nobody's dependency for Cargo, so a test that loads it has to
    /// ask for it.
    pub fn build() -> Result<Self, ArtifactsError> {
        let program = env::current_exe()?;
        let (directory, profile) =
            profile_directory(&program).ok_or_else(|| ArtifactsError::Locate {
                program: program.clone(),
            })?;
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args([
                "build",
                "--quiet",
                "--package",
                "nvml-sim",
                "--package",
                "nvidia-smi",
            ])
            .args(["--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()?;
        if status.success() {
            Ok(Self::in_directory(directory))
        } else {
            Err(ArtifactsError::Build)
        }
    }
}

/// `…/target/debug` and the profile's name for a test at `…/target/debug/deps/<test>`.
fn profile_directory(program: &Path) -> Option<(&Path, &str)> {
    let deps = program.parent().filter(|deps| deps.ends_with("deps"))?;
    let directory = deps.parent()?;
    match directory.file_name()?.to_str()? {
        // Cargo's dev profile is the one whose directory has another name.
        "debug" => Some((directory, "dev")),
        profile => Some((directory, profile)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_is_found_from_a_tests_path() {
        let test = Path::new("/t/debug/deps/abi-0123");
        assert_eq!(
            profile_directory(test),
            Some((Path::new("/t/debug"), "dev"))
        );
        let test = Path::new("/t/release/deps/abi-0123");
        assert_eq!(
            profile_directory(test),
            Some((Path::new("/t/release"), "release"))
        );
        assert_eq!(profile_directory(Path::new("/usr/bin/abi")), None);
    }
}
