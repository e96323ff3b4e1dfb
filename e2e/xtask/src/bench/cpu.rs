//! How much processor time a process has had, by the kernel's account in `/proc/<pid>/task/<tid>/schedstat`.
//!
//! Unlike the time that a call takes it says nothing of what else the machine does, so that two versions
//! can be compared by it on a machine that is not quiet.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// What all threads of a process have had together. A thread that has ended counts no more.
pub(super) fn of(pid: u32) -> anyhow::Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut all = Duration::ZERO;
    for task in fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
        let path = task?.path().join("schedstat");
        // It may have ended since the listing.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let ran = parse(&text).with_context(|| format!("read {}", path.display()))?;
        all = all.saturating_add(ran);
    }
    Ok(all)
}

/// The first of three numbers is the time on a processor, in nanoseconds.
fn parse(schedstat: &str) -> Option<Duration> {
    let ran = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(ran))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_time_on_a_processor() {
        assert_eq!(
            parse("1500000 2700 36\n"),
            Some(Duration::from_micros(1500))
        );
        assert_eq!(parse(""), None);
        assert_eq!(parse("- 1 1"), None);
    }

    #[test]
    fn a_process_that_works_has_had_time() {
        let pid = std::process::id();
        let before = of(pid).unwrap();
        let mut sum = 0u64;
        while of(pid).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(of(0).is_err());
    }
}
