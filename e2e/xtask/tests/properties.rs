//! Holds the properties of docs/placement.md against the tests that prove them, both ways.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own functions fail by panic, as the test does"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The properties that the design names.
const PROPERTIES: [&str; 14] = [
    "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "L1", "L2", "L3", "L4", "Q1",
];

/// The tests of each crate, by its package's name.
type Tests = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap().to_owned()
}

/// The rows of the table: property, and the tests named in its last column, each with its crate.
fn rows(page: &str) -> Vec<(String, Vec<(String, String)>)> {
    let table = page
        .split("\n## ")
        .find(|part| part.starts_with("Properties"));
    let rows = table
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("| "));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect());
    let cells =
        cells.filter(|cells: &Vec<&str>| cells[0] != "property" && !cells[0].starts_with('-'));
    let proofs = |cell: &str| {
        let quoted: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(
            quoted.len().is_multiple_of(2),
            "each test has its crate behind it: {cell}"
        );
        quoted
            .chunks(2)
            .map(|pair| (pair[1].to_owned(), pair[0].to_owned()))
            .collect()
    };
    cells
        .map(|cells| (cells[0].to_owned(), proofs(cells.last().unwrap())))
        .collect()
}

/// The names of the tests of a file: functions with an attribute that makes them one.
fn tests_of(text: &str) -> BTreeSet<String> {
    let mut marked = false;
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, name)) = line.split_once("fn ").filter(|_| marked) {
            let name = name.split(['(', '<']).next().unwrap();
            found.insert(name.to_owned());
            marked = false;
        }
    }
    found
}

fn collect(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(tests_of(&fs::read_to_string(path).unwrap()));
        }
    }
}

fn written() -> Tests {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap();
    let members = members.split(']').next().unwrap().split('"');
    let mut tests = Tests::new();
    for member in members.skip(1).step_by(2) {
        let member = root().join(member);
        let manifest = fs::read_to_string(member.join("Cargo.toml")).unwrap();
        let name = manifest.split("name = \"").nth(1).unwrap();
        let own = tests
            .entry(name.split('"').next().unwrap().to_owned())
            .or_default();
        for part in ["src", "tests"].map(|part| member.join(part)) {
            if part.is_dir() {
                collect(&part, own);
            }
        }
    }
    tests
}

/// The properties that the name of a test says it is of: `s1_s2_…`.
fn said_by(test: &str) -> impl Iterator<Item = String> {
    let words = test.split('_').map(str::to_uppercase);
    words.take_while(|word| PROPERTIES.contains(&word.as_str()))
}

#[test]
fn every_property_has_its_row_and_every_test_that_a_row_names_is_there() {
    let page = fs::read_to_string(root().join("docs/placement.md")).unwrap();
    let (rows, tests) = (rows(&page), written());
    let listed: Vec<&str> = rows.iter().map(|(property, _)| property.as_str()).collect();
    assert_eq!(listed, PROPERTIES);
    for (property, proofs) in &rows {
        assert!(!proofs.is_empty(), "nothing proves {property}");
        for (package, test) in proofs {
            let own = tests
                .get(package)
                .unwrap_or_else(|| panic!("there is no crate {package}"));
            assert!(
                own.contains(test),
                "{package} has no test {test}, which is to prove {property}"
            );
        }
    }
}

#[test]
fn every_test_that_is_named_after_a_property_is_in_its_row() {
    let page = fs::read_to_string(root().join("docs/placement.md")).unwrap();
    let rows: BTreeMap<_, _> = rows(&page).into_iter().collect();
    let mut named = 0;
    for (package, tests) in written() {
        for test in tests {
            for property in said_by(&test) {
                named += 1;
                let proof = (package.clone(), test.clone());
                assert!(
                    rows[&property].contains(&proof),
                    "{test} is not in the row of {property}"
                );
            }
        }
    }
    assert!(named > 10, "only {named} were found");
}

#[test]
fn a_function_is_a_test_by_its_attribute_alone() {
    let text = "#[test]\nfn a_test() {}\nfn none() {}\n    #[tokio::test(start_paused = true)]\n    async fn another() {}";
    let names: Vec<String> = tests_of(text).into_iter().collect();
    assert_eq!(names, ["a_test", "another"]);
}

#[test]
fn a_table_is_read_row_by_row() {
    let page = "# A\n\n## Properties\n\n| property | what it says | the tests |\n|---|---|---|\n| S1 | a | `x` (`p`), `y` (`q`) |\n\n## B\n| L1 | b | `z` (`p`) |\n";
    let pair = |package: &str, test: &str| (package.to_owned(), test.to_owned());
    assert_eq!(
        rows(page),
        [("S1".to_owned(), vec![pair("p", "x"), pair("q", "y")])]
    );
}
