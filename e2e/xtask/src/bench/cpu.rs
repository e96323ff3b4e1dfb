//! How much processor time a process has had, by the kernel's account in `/proc/<pid>/stat`.
//!
//! Unlike the time that a call takes it says nothing of what else the machine does, so that two versions
//! can be compared by it on a machine that is not quiet.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// In which the kernel tells times, on every machine that Kubernetes runs on (`USER_HZ` in `include/asm-generic/param.h`).
const TICKS_PER_SECOND: u64 = 100;

/// What all threads of a process have had together, those that have ended among them, in steps of 10 ms.
pub(super) fn of(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse(&text).with_context(|| format!("understand {path}"))
}

/// The fields `utime` and `stime` of `proc_pid_stat(5)`, which are the twelfth and thirteenth after the name. That stands in
/// brackets, and may have brackets and spaces in it.
fn parse(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let all = ticks()?.checked_add(ticks()?)?;
    Some(Duration::from_millis(
        all.checked_mul(1000 / TICKS_PER_SECOND)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_user_and_system_whatever_the_name_is() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 30 9 9 20 0 1 0 5 6 7";
        assert_eq!(parse(stat), Some(Duration::from_millis(1800)));
        assert_eq!(parse("7 (a) S 1 7"), None);
        assert_eq!(parse(""), None);
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
