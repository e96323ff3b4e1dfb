//! Follows the objects of one kind: their present state first, every change after it.
//!
//! The server marks the end of the present state with a bookmark (Kubernetes KEP-3157), so an empty answer is known to
//! be one and "there is none" can be waited for like anything else.

use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::WatchEvent;

use super::object::{Object, Objects, name};
use super::version::Version;
use crate::lines::{Lines, Next};

/// The query of such a watch.
pub(super) const QUERY: &str =
    "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

/// The annotation of the bookmark that ends the present state.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The objects as last heard of.
pub(crate) struct Watch<K> {
    lines: Lines,
    version: Version,
    objects: Objects<K>,
    whole: bool,
}

/// What came of a wait for a change.
pub(crate) enum Heard {
    /// Something changed, or the present state is complete.
    News,
    Late,
    Ended(String),
    Interrupted,
}

impl<K: Object> Watch<K> {
    pub(super) fn new(lines: Lines, version: Version) -> Self {
        Self {
            lines,
            version,
            objects: Objects::new(),
            whole: false,
        }
    }

    pub(crate) fn objects(&self) -> &Objects<K> {
        &self.objects
    }

    /// Waits for the next change. What there was at the start counts as one change.
    pub(crate) fn next(&mut self, deadline: Instant) -> Heard {
        loop {
            let line = match self.lines.next(deadline) {
                Next::Line(line) => line,
                Next::Late => return Heard::Late,
                Next::Ended(said) => return Heard::Ended(said),
                Next::Interrupted => return Heard::Interrupted,
            };
            match serde_json::from_str(&self.version.read(&line)) {
                Ok(event) => match self.take(event) {
                    Ok(()) if self.whole => return Heard::News,
                    Ok(()) => {}
                    Err(said) => return Heard::Ended(said),
                },
                Err(error) => return Heard::Ended(format!("{error} in {line}")),
            }
        }
    }

    fn take(&mut self, event: WatchEvent<K>) -> Result<(), String> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.objects.insert(name(&object), object);
            }
            WatchEvent::Deleted(object) => {
                self.objects.remove(&name(&object));
            }
            WatchEvent::Bookmark { annotations, .. } => {
                self.whole |= annotations.contains_key(INITIAL_EVENTS_END);
            }
            WatchEvent::ErrorStatus(status) => return Err(status.message.unwrap_or_default()),
            WatchEvent::ErrorOther(other) => return Err(format!("{other:?}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Pod;
    use tessera_cluster::Release;

    use super::*;

    fn watch(events: &[String]) -> Watch<Pod> {
        let lines = Lines::start(Command::new("printf").arg("%s\\n").args(events)).unwrap();
        Watch::new(lines, Version::of(Release::default()))
    }

    fn event(kind: &str, name: &str) -> String {
        format!(
            r#"{{"type":"{kind}","object":{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}}}}}}"#
        )
    }

    fn bookmark(annotation: &str) -> String {
        format!(
            r#"{{"type":"BOOKMARK","object":{{"apiVersion":"v1","kind":"Pod","metadata":{{"resourceVersion":"7","annotations":{{{annotation}}}}}}}}}"#
        )
    }

    fn names(watch: &mut Watch<Pod>) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(matches!(watch.next(deadline), Heard::News));
        watch.objects().keys().cloned().collect()
    }

    #[test]
    fn the_present_state_is_one_piece_of_news_and_each_change_another() {
        let end = bookmark(r#""k8s.io/initial-events-end":"true""#);
        let mut watch = watch(&[
            event("ADDED", "a"),
            event("ADDED", "b"),
            end,
            event("DELETED", "a"),
            event("ADDED", "c"),
        ]);
        assert_eq!(names(&mut watch), ["a", "b"]);
        assert_eq!(names(&mut watch), ["b"]);
        assert_eq!(names(&mut watch), ["b", "c"]);
    }

    #[test]
    fn another_bookmark_does_not_end_the_present_state() {
        let mut watch = watch(&[event("ADDED", "a"), bookmark("")]);
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(matches!(watch.next(deadline), Heard::Ended(_)));
    }

    #[test]
    fn an_error_of_the_server_ends_the_watch_with_its_text() {
        let error = r#"{"type":"ERROR","object":{"apiVersion":"v1","kind":"Status","status":"Failure","message":"too old"}}"#;
        let mut watch = watch(&[error.to_owned()]);
        let deadline = Instant::now() + Duration::from_secs(10);
        let Heard::Ended(said) = watch.next(deadline) else {
            panic!("the error was not noticed");
        };
        assert_eq!(said, "too old");
    }
}
