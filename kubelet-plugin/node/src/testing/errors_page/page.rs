//! What the page says, and whether it is what the types say.

/// The entries below a heading of the second level: their names and their messages.
fn page(section: &str) -> Vec<(String, String)> {
    let page = include_str!("../../../../../docs/errors.md");
    let start = format!("\n## {section}\n");
    let (_, rest) = page.split_once(&start).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let entries = section.split("\n### `").skip(1);
    entries
        .map(|entry| {
            let (name, body) = entry.split_once("`\n").unwrap();
            let message = body.lines().filter_map(|line| line.strip_prefix("> "));
            for part in ["\n- Cause: ", "\n- Remedy: ", "\n- Passes by itself: "] {
                assert!(body.contains(part), "{name} has no {part:?}");
            }
            (name.to_owned(), message.collect::<Vec<_>>().join(" "))
        })
        .collect()
}

/// Holds if the section has exactly these names in this order, and each message is as said.
#[track_caller]
pub(super) fn check(section: &str, all: &[(&str, String)]) {
    let page = page(section);
    let explained: Vec<&str> = page.iter().map(|(name, _)| name.as_str()).collect();
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    assert_eq!(explained, names, "the headings of {section:?}");
    for ((name, pattern), (_, said)) in page.iter().zip(all) {
        assert!(
            is_like(said, pattern),
            "{name} says\n{said}\nand not\n{pattern}"
        );
    }
}

/// Whether the text is the pattern, in which each `…` stands for something.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut whole = true;
    for part in parts {
        whole = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    whole || rest.is_empty()
}

#[test]
fn a_pattern_is_like_its_texts_only() {
    assert!(is_like("claim a is gone", "claim … is …"));
    assert!(is_like("claim a", "claim a"));
    assert!(!is_like("claim a is gone", "claim …is"));
    assert!(!is_like("the claim", "claim"));
    assert!(!is_like("claim b", "claim a"));
}
