//! The stage of another machine: the image for aarch64 is built, its programs start, and the decisions' tests pass there.
//!
//! Everything runs in an emulator of the processor (`qemu-user`) on the kernel of this machine; no aarch64 machine is needed,
//! and none is tried.

use std::path::Path;

use anyhow::{Context as _, bail};
use tessera_cluster::progress::{Screen, step};
use tessera_cluster::{Platform, Profile};

use super::tally::Tally;
use crate::image;
use crate::shipped::{self, CONTROLLER, PLUGIN, SESSION_HOST};

/// The crates that decide: no system call is made in them.
const DECISIONS: [&str; 10] = [
    "tessera-device",
    "tessera-api",
    "tessera-resource-api",
    "tessera-offer",
    "tessera-claim",
    "tessera-domain",
    "tessera-prepare",
    "tessera-session",
    "tessera-sharing",
    "tessera-gang",
];

const PLATFORM: Platform = Platform::LinuxArm64;

/// Builds, starts and tests. Each program that starts counts as one test.
pub(crate) fn run(profile: Profile) -> anyhow::Result<Tally> {
    PLATFORM.prepare(&Screen)?;
    let started = starts(profile)?;
    // Not those in documentation: the compiler that has a library for the other machine comes without its own rustdoc.
    let mut arguments = vec!["test", "--no-fail-fast", "--lib", "--tests"];
    for package in DECISIONS {
        arguments.extend(["--package", package]);
    }
    let tested = super::cargo_for(PLATFORM, "emulated", &arguments)?;
    Ok(Tally {
        passed: started + tested.passed,
        ..tested
    })
}

fn starts(profile: Profile) -> anyhow::Result<usize> {
    let image = image::build_for(PLATFORM, profile, None, &Screen)?;
    let unpacked = tempfile::tempdir().context("make a directory for the programs")?;
    shipped::unpack_root(&image.archive, unpacked.path())?;
    let programs = [PLUGIN, CONTROLLER, SESSION_HOST];
    for program in programs {
        let what = format!("start {program} in an emulator of aarch64");
        step(&Screen, &what, || answers(unpacked.path(), program))?;
    }
    Ok(programs.len())
}

fn answers(root: &Path, program: &str) -> anyhow::Result<()> {
    let mut command = PLATFORM.run(root, &root.join("usr/bin").join(program));
    let answer = command
        .arg("--version")
        .output()
        .with_context(|| format!("start {program}"))?;
    if !answer.status.success() || answer.stdout.is_empty() {
        let said = String::from_utf8_lossy(&answer.stderr);
        bail!("{program} --version ended with {}: {said}", answer.status);
    }
    Ok(())
}
