//! When the plugin did what, by its own log: one JSON object per line, with a time in microseconds.

use jiff::Timestamp;
use serde::Deserialize;

/// Both sockets are served.
pub(super) const SERVING: &str = "serving";
/// The kubelet has called `NotifyRegistrationStatus`.
pub(super) const REGISTERED: &str = "the kubelet registered the driver";

#[derive(Deserialize)]
struct Line<'a> {
    timestamp: Timestamp,
    message: &'a str,
}

/// When this message was logged first. Lines that are not in the log's form are passed over.
pub(super) fn first(log: &str, message: &str) -> Option<Timestamp> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Line<'_>>(line).ok());
    lines
        .filter(|line| line.message == message)
        .map(|line| line.timestamp)
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_with_the_message_counts() {
        let log = "\
not JSON
{\"timestamp\":\"2026-01-02T03:04:05.000001Z\",\"level\":\"INFO\",\"message\":\"serving later\"}
{\"timestamp\":\"2026-01-02T03:04:05.000002Z\",\"level\":\"INFO\",\"message\":\"serving\",\"node\":\"n\"}
{\"timestamp\":\"2026-01-02T03:04:06.000003Z\",\"level\":\"INFO\",\"message\":\"serving\"}
";
        let wanted = "2026-01-02T03:04:05.000002Z".parse().unwrap();
        assert_eq!(first(log, SERVING), Some(wanted));
        assert_eq!(first(log, REGISTERED), None);
    }
}
