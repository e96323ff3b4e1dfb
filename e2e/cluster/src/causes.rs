//! An error with all its causes, for where it leaves this crate as text.

use std::error::Error;

/// The error and what caused it, outermost first, in one text.
pub fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the door")]
    struct Outer {
        source: std::io::Error,
    }

    #[test]
    fn the_cause_follows_what_it_caused() {
        let error = Outer {
            source: std::io::Error::other("no key"),
        };
        assert_eq!(with_causes(&error), "open the door: no key");
    }
}
