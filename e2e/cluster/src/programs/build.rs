//! Builds what the cache lacks, one family after the other, and lays all programs side by side.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::{Family, Program, ProgramsError, cache_of_environment, families};
use crate::interrupt;
use crate::packages::{self, Package};
use crate::process::{self, LOOK_AGAIN, run};
use crate::progress::{Progress, step};
use crate::release::Release;

/// A cold build of the largest program with its downloads takes five minutes on two cores.
const BUILD_LIMIT: Duration = Duration::from_mins(40);

/// Go's compiler collects less garbage and is done a fifth sooner, by processor time, for some more of a memory that
/// machines for this have.
const COMPILER_MEMORY: (&str, &str) = ("GOGC", "400");

/// Where each program lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    files: Vec<PathBuf>,
}

/// Returns every program of a cluster with this Kubernetes, after building those that the cache lacks.
///
/// `modules` is the folder of the pinned Go modules. Safe to call from several processes at once.
pub fn obtain(
    modules: &Path,
    kubernetes: Release,
    progress: &dyn Progress,
) -> Result<Programs, ProgramsError> {
    let mut files = Vec::new();
    for family in families(kubernetes) {
        files.extend(programs_of(&family, modules, progress)?);
    }
    Ok(Programs { files })
}

/// Returns the kubelet of this Kubernetes, after building it if the cache lacks it: without a control plane that takes minutes
/// less.
pub(crate) fn kubelet(
    modules: &Path,
    kubernetes: Release,
    progress: &dyn Progress,
) -> Result<PathBuf, ProgramsError> {
    let family = kubernetes.family().kubelet_alone();
    let files = programs_of(&family, modules, progress)?;
    let kubelet = files.into_iter().next();
    Ok(kubelet.expect("a family has a file for each of its programs, and this one has one"))
}

fn programs_of(
    family: &Family,
    modules: &Path,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, ProgramsError> {
    let home = family.home(modules, &cache_of_environment())?;
    let files: Vec<_> = family
        .programs
        .iter()
        .map(|program| home.join(program.name))
        .collect();
    if files.iter().any(|file| !file.is_file()) {
        build_family(family, modules, &home, progress)?;
    }
    Ok(files)
}

impl Programs {
    /// The program of this name.
    pub fn file(&self, name: &str) -> Option<&Path> {
        let mut files = self.files.iter().map(PathBuf::as_path);
        files.find(|file| file.file_name().is_some_and(|found| found == name))
    }

    /// Makes `dir` a directory of links to all programs, good for a PATH.
    pub(crate) fn link_into(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        for file in &self.files {
            let name = file
                .file_name()
                .ok_or_else(|| io::Error::other("a program has no name"))?;
            symlink(file, dir.join(name))?;
        }
        Ok(())
    }
}

fn build_family(
    family: &Family,
    modules: &Path,
    home: &Path,
    progress: &dyn Progress,
) -> Result<(), ProgramsError> {
    let kept = |source| ProgramsError::Cache {
        path: home.to_owned(),
        source,
    };
    let module = modules.join(family.module);
    let go = process::find("go").ok_or_else(|| no_go(family, &module))?;
    if family.cgo {
        packages::ensure(
            &[
                Package::Compiler,
                Package::PkgConfig,
                Package::LibseccompHeaders,
            ],
            progress,
        )?;
    }
    fs::create_dir_all(home).map_err(kept)?;
    // Held until the end of this function: another process that wants the same programs waits, then finds them.
    let lock = File::create(home.join(".lock")).map_err(kept)?;
    hold(&lock).map_err(kept)?;
    for program in family.programs {
        let file = home.join(program.name);
        if !file.is_file() {
            step(progress, &format!("build {}", program.name), || {
                build(&go, family, program, &module, &file)
            })?;
        }
    }
    Ok(())
}

/// Waits for the lock, but not through an interrupt: whoever holds it may build for minutes.
fn hold(lock: &File) -> io::Result<()> {
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if interrupt::requested() => {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOOK_AGAIN),
        }
    }
}

fn build(
    go: &Path,
    family: &Family,
    program: &Program,
    module: &Path,
    file: &Path,
) -> Result<(), ProgramsError> {
    let unfinished = file.with_extension("unfinished");
    let mut command = Command::new(go);
    command
        .arg("build")
        .args(family.flags())
        .arg("-o")
        .arg(&unfinished)
        .arg(program.package)
        .current_dir(module)
        .env("CGO_ENABLED", family.cgo_enabled())
        .env("GOWORK", "off")
        .env(COMPILER_MEMORY.0, COMPILER_MEMORY.1)
        .env_remove("GOFLAGS");
    run(&mut command, BUILD_LIMIT).map_err(|source| ProgramsError::Build {
        program: program.name,
        module: module.to_owned(),
        source,
    })?;
    fs::rename(&unfinished, file).map_err(|source| ProgramsError::Cache {
        path: file.to_owned(),
        source,
    })
}

fn no_go(family: &Family, module: &Path) -> ProgramsError {
    let text = fs::read_to_string(module.join("go.mod")).unwrap_or_default();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .unwrap_or("of the version in go.mod");
    ProgramsError::NoGo {
        family: family.name,
        wanted: version.to_owned(),
    }
}
