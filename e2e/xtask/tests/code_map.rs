//! Holds the code map of ARCHITECTURE.md against the crates and modules that there are.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own functions fail by panic, as the test does"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// Entries of the code map: `crate/` in headings, `crate/module` in lists below them.
fn mapped() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text
        .split("\n## ")
        .find(|section| section.starts_with("Code map"))
        .unwrap();
    let mut entries = BTreeSet::new();
    let mut directory = String::new();
    for line in map.lines() {
        if let Some(heading) = line.strip_prefix("### `") {
            heading
                .split('`')
                .next()
                .unwrap()
                .trim_end_matches('/')
                .clone_into(&mut directory);
            entries.insert(format!("{directory}/"));
        } else if let Some(item) = line.strip_prefix("- `") {
            let module = item.split('`').next().unwrap();
            entries.insert(format!("{directory}/{module}"));
        }
    }
    entries
}

/// The crates of the workspace and the modules directly below each crate root.
fn existing() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest
        .split("members = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap();
    let mut entries = BTreeSet::new();
    for member in members.split('"').skip(1).step_by(2) {
        entries.insert(format!("{member}/"));
        let files = fs::read_dir(root().join(member).join("src")).unwrap();
        for file in files {
            let path = file.unwrap().path();
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            let module = path.extension().is_some_and(|extension| extension == "rs");
            if module && !["lib", "main", "tests", "testing"].contains(&stem.as_str()) {
                entries.insert(format!("{member}/{stem}"));
            }
        }
    }
    entries
}

#[test]
fn the_code_map_names_every_crate_and_module_and_no_other() {
    let (mapped, existing) = (mapped(), existing());
    let missing: Vec<_> = existing.difference(&mapped).collect();
    let gone: Vec<_> = mapped.difference(&existing).collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md does not mention {missing:#?}"
    );
    assert!(
        gone.is_empty(),
        "ARCHITECTURE.md mentions what is not there: {gone:#?}"
    );
}
