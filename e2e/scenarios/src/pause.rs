//! Lets time pass in which something is to hold.

use std::thread;
use std::time::{Duration, Instant};

use tessera_cluster::interrupt;

use crate::failure::Failure;

const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Returns after this time, or at once when a signal comes.
pub(crate) fn pause(time: Duration) -> Result<(), Failure> {
    let end = Instant::now() + time;
    loop {
        if interrupt::requested() {
            return Err(Failure::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK_AGAIN));
    }
}
