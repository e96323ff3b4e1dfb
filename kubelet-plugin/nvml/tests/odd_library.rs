//! Libraries that are not there, are not NVML, or answer oddly: errors and problems, never a panic.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tessera_device::{AddressingMode, Architecture, Bytes, InventoryError, MemoryLimiting};
use tessera_nvml::{KernelFiles, Nvml, NvmlError, Scan};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/odd_library/odd_nvml.rs");

/// Compiles the odd library with these oddities switched on.
fn build(directory: &TempDir, oddities: &[&str]) -> PathBuf {
    let library = directory.path().join("libnvidia-ml.so.1");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "--crate-type=cdylib", SOURCE, "-o"]);
    rustc.arg(&library).args(["-A", "warnings"]);
    for oddity in oddities {
        rustc.args(["--cfg", oddity]);
    }
    assert!(rustc.status().unwrap().success());
    library
}

fn scan(oddities: &[&str]) -> Result<Scan, NvmlError> {
    let directory = tempfile::tempdir().unwrap();
    let library = build(&directory, oddities);
    let kernel = KernelFiles {
        sysfs: directory.path().to_owned(),
        proc: directory.path().to_owned(),
    };
    Nvml::load(&library).unwrap().inventory(&kernel)
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[test]
fn a_library_that_is_missing_or_is_no_library_is_named_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    fs::write(&text, "not a library").unwrap();
    for library in [&text, &directory.path().join("missing")] {
        let error = Nvml::load(library).unwrap_err();
        assert!(matches!(error, NvmlError::Open { .. }), "{error:?}");
        let message = chain(&error);
        assert!(message.contains(library.to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_library_that_is_not_nvml_lacks_a_function_and_says_which() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps
        .split_whitespace()
        .find(|word| word.contains("/libc.so"))
        .unwrap();
    let error = Nvml::load(Path::new(libc)).unwrap_err();
    assert!(matches!(error, NvmlError::Initialize { .. }), "{error:?}");
    let message = chain(&error);
    assert!(message.contains("nvmlInitWithFlags"), "{message}");
}

#[test]
fn a_library_that_cannot_be_shut_down_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let library = build(&directory, &["without_shutdown"]);
    let message = chain(&Nvml::load(&library).unwrap_err());
    assert!(message.contains("nvmlShutdown"), "{message}");
}

#[test]
fn a_driver_version_that_is_no_text_is_an_error() {
    let error = scan(&["driver_version_is_no_text"]).unwrap_err();
    let message = chain(&error);
    assert!(message.contains("nvmlSystemGetDriverVersion"), "{message}");
}

#[test]
fn odd_gpus_are_problems_and_the_others_are_offered() {
    let Scan {
        inventory,
        problems,
    } = scan(&[]).unwrap();
    let minors: Vec<_> = inventory.gpus().iter().map(|gpu| gpu.minor).collect();
    assert_eq!(minors, [0, 3, 6]);

    let described: Vec<_> = problems
        .iter()
        .map(|problem| (problem.index, problem.minor, problem.error.call))
        .collect();
    assert_eq!(
        described,
        [
            (1, Some(1), "nvmlDeviceGetUUID"),
            (2, Some(2), "nvmlDeviceGetUUID"),
            (4, Some(4), "nvmlDeviceGetCudaComputeCapability"),
            (5, None, "nvmlDeviceGetHandleByIndex_v2"),
        ]
    );
    let message = problems[2].to_string();
    for part in ["index 4", "GPU-00000005-", "0000:05:00.0", "-9 is out of"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_newer_than_the_bindings_is_unknown_and_costs_no_gpu() {
    let inventory = scan(&[]).unwrap().inventory;
    let [plain, newer, silent] = inventory.gpus() else {
        panic!("{inventory:?}");
    };
    assert_eq!(plain.addressing_mode, Some(AddressingMode::Ats));
    assert_eq!(
        (plain.brand.as_str(), &plain.architecture),
        ("Nvidia", &Architecture::Hopper)
    );
    assert_eq!(plain.memory, Bytes(u64::MAX));
    assert_eq!(
        (newer.brand.as_str(), &newer.architecture),
        ("Unknown", &Architecture::Unknown)
    );
    assert_eq!(newer.addressing_mode, None);
    assert_eq!(silent.addressing_mode, None);
}

#[test]
fn a_driver_without_addressing_modes_offers_its_gpus_without_them() {
    let inventory = scan(&["without_addressing_mode"]).unwrap().inventory;
    assert_eq!(inventory.gpus().len(), 3);
    // Nor has this library any of the calls about memory limits.
    let limiting = inventory.driver().memory_limiting;
    assert_eq!(limiting, MemoryLimiting::NoCall);
    assert!(
        inventory
            .gpus()
            .iter()
            .all(|gpu| gpu.addressing_mode.is_none())
    );
}

#[test]
fn an_adapter_and_all_that_comes_out_of_it_can_go_to_another_thread() {
    fn sendable<T: Send + Sync + 'static>() {}
    sendable::<Nvml>();
    sendable::<Scan>();
    sendable::<NvmlError>();
    sendable::<InventoryError>();
}
