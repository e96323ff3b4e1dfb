//! The page that keeps the last figures: what stands between two markers is replaced, the rest is written by people.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

const END: &str = "<!-- end of figures -->";

/// The line above figures, by the command that writes them.
fn begin(command: &str) -> String {
    format!("<!-- figures: written by `{command}` -->")
}

/// Puts the section that a command writes into the page.
pub(crate) fn update(page: &Path, command: &str, section: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let updated = replace(&text, command, section).with_context(|| {
        format!(
            "find the lines {:?} and {END:?} in {}; put them back",
            begin(command),
            page.display()
        )
    })?;
    fs::write(page, updated).with_context(|| format!("write {}", page.display()))
}

fn replace(text: &str, command: &str, section: &str) -> Option<String> {
    let begin = begin(command);
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!(
        "{before}{begin}\n\n{}\n\n{END}{after}",
        section.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_stays_and_figures_are_replaced() {
        let begin = begin("count");
        let page = format!("# Title\n\n{begin}\nold\n{END}\nmore\n");
        let once = replace(&page, "count", "new\n").unwrap();
        assert_eq!(once, format!("# Title\n\n{begin}\n\nnew\n\n{END}\nmore\n"));
        assert_eq!(replace(&once, "count", "new\n"), Some(once.clone()));
        assert_eq!(replace(&once, "other", "new\n"), None);
    }

    #[test]
    fn a_page_without_its_markers_is_left_alone() {
        let begin = begin("count");
        for page in ["", &begin, END, &format!("{END}{begin}")] {
            assert_eq!(replace(page, "count", "new"), None, "{page:?}");
        }
    }
}
