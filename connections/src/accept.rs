//! What a listener does about an accept that failed.

use std::io;
use std::time::Duration;

/// What makes an accept fail (no free descriptor) lasts, and without a pause the loop would take a
/// whole core.
const PAUSE: Duration = Duration::from_millis(100);

/// Tells of the failure and waits until it is worth another try.
pub async fn after_failure(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(PAUSE).await;
}
