//! The page on compatibility against the chart and against the tests that it names.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use serde_yaml_ng::Value;
use tessera_manifests::chart::{chart, repository};
use tessera_manifests::sources::rust_files;

fn page() -> String {
    std::fs::read_to_string(repository().join("docs/compatibility.md")).unwrap()
}

/// The cells of each row of the page's tables.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// The names of tests that a text gives: code of at least four words, metrics aside.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split('`').skip(1).step_by(2);
    code.filter(|word| {
        let letters = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        word.chars().all(|letter| letter == '_' || letters(letter))
            && word.matches('_').count() >= 3
            && !word.starts_with("nvidia_dra_")
            && !word.starts_with("tessera_")
    })
}

/// The code of the repository in one text.
fn code() -> String {
    let files = rust_files(&["controller", "driver", "e2e", "kubelet-plugin", "shell"]).unwrap();
    files.into_iter().map(|(_, text)| text).collect()
}

#[test]
fn each_row_has_one_of_the_four_answers_and_a_reason() {
    let page = page();
    let rows = rows(&page);
    assert!(rows.len() > 60);
    for row in rows {
        assert_eq!(row.len(), 3, "{row:?}");
        // Headings of tables aside.
        let answers = ["here", "same", "better", "not yet", "never"];
        assert!(answers.contains(&row[1]), "{row:?}");
        assert!(!row[2].is_empty(), "{row:?}");
    }
}

#[test]
fn every_test_that_the_page_names_exists() {
    let (page, code) = (page(), code());
    let mut count = 0;
    for test in tests(&page) {
        assert!(code.contains(&format!("fn {test}(")), "{test}");
        count += 1;
    }
    assert!(count > 20);
}

#[test]
fn what_is_the_same_names_the_test_that_shows_it() {
    let page = page();
    for row in rows(&page).iter().filter(|row| row[1] == "same") {
        let named = tests(row[2]).next().is_some();
        // It has the row above in common with the other flags.
        assert!(named || row[0] == "`cdi-root`", "{row:?}");
    }
}

#[test]
fn the_page_has_every_value_without_effect_with_the_reason_of_the_chart() {
    let table = std::fs::read_to_string(chart().join("without-effect.yaml")).unwrap();
    let table: Value = serde_yaml_ng::from_str(&table).unwrap();
    let page = page();
    for row in table.as_sequence().unwrap() {
        let cell = |name: &str| row[name].as_str().unwrap();
        let line = format!("| `{}` | {} | {} |", cell("key"), cell("when"), cell("why"));
        assert!(page.contains(&line), "{line}");
    }
}
