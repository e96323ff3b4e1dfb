//! The page that keeps the last figures: what stands between two markers is replaced, the rest is written by people.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench` -->";
const END: &str = "<!-- end of figures -->";

/// Puts the section into the page.
pub(super) fn update(page: &Path, section: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let updated = replace(&text, section).with_context(|| {
        format!(
            "find the lines {BEGIN:?} and {END:?} in {}; put them back",
            page.display()
        )
    })?;
    fs::write(page, updated).with_context(|| format!("write {}", page.display()))
}

fn replace(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        section.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_stays_and_figures_are_replaced() {
        let page = format!("# Title\n\n{BEGIN}\nold\n{END}\nmore\n");
        let once = replace(&page, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n\n{BEGIN}\n\nnew\n\n{END}\nmore\n"));
        assert_eq!(replace(&once, "new\n"), Some(once.clone()));
    }

    #[test]
    fn a_page_without_its_markers_is_left_alone() {
        for page in ["", BEGIN, END, &format!("{END}{BEGIN}")] {
            assert_eq!(replace(page, "new"), None, "{page:?}");
        }
    }
}
