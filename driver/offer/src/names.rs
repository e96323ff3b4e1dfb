//! The object names of a pool's slices.
//!
//! Names are fixed, so that a repeated create answers "exists" instead of making a second slice.
//! The index has a fixed width because the scheduler reads slices in the order of their names.

use crate::limits::OBJECT_NAME_BYTES;

/// The name of the pool's slice number `index`: `<node>-<driver>-<index>`.
///
/// Where that is too long for a DNS subdomain, the node's part is cut and a hash of the whole
/// node name stands in for the rest.
pub(crate) fn slice_name(node: &str, driver: &str, index: usize) -> String {
    let tail = format!("-{driver}-{index:03}");
    if node.len() + tail.len() <= OBJECT_NAME_BYTES {
        return format!("{node}{tail}");
    }
    let tail = format!("-{:016x}{tail}", fnv1a(node.as_bytes()));
    let room = OBJECT_NAME_BYTES.saturating_sub(tail.len());
    let head = &node[..node.floor_char_boundary(room)];
    let head = head.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{head}{tail}")
}

/// FNV-1a, 64 bits: the standard library's hasher may change with the compiler, and a name may not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DRIVER: &str = "gpu.nvidia.com";

    fn is_dns_subdomain(name: &str) -> bool {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        name.len() <= OBJECT_NAME_BYTES
            && name.split('.').all(|label| {
                edge(label.as_bytes().first())
                    && edge(label.as_bytes().last())
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            })
    }

    #[test]
    fn an_ordinary_name_shows_node_driver_and_index() {
        assert_eq!(slice_name("node-a", DRIVER, 0), "node-a-gpu.nvidia.com-000");
    }

    #[test]
    fn names_sort_as_their_indices_do() {
        let names: Vec<String> = (0..300).map(|i| slice_name("node-a", DRIVER, i)).collect();
        assert!(names.is_sorted());
    }

    #[test]
    fn nodes_that_differ_only_beyond_the_cut_get_different_names() {
        let long = "n".repeat(252);
        let (first, second) = (format!("{long}a"), format!("{long}b"));
        let (first, second) = (
            slice_name(&first, DRIVER, 0),
            slice_name(&second, DRIVER, 0),
        );
        assert_ne!(first, second);
        assert!(is_dns_subdomain(&first), "{first}");
    }

    proptest! {
        #[test]
        fn every_node_name_gives_a_valid_object_name(
            node in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,5}"
        ) {
            let node = &node[..node.len().min(OBJECT_NAME_BYTES)];
            let node = node.trim_end_matches(['-', '.']);
            let name = slice_name(node, DRIVER, 7);
            prop_assert!(is_dns_subdomain(&name), "{name}");
        }

        #[test]
        fn no_text_panics(node: String, index: usize) {
            slice_name(&node, DRIVER, index);
        }
    }
}
