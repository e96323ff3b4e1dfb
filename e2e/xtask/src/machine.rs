//! What the figures were measured on and with.

use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;

use jiff::Timestamp;
use tessera_cluster::paths::checkout;

/// Machine, time and state of the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory: String,
    kernel: String,
    load: String,
    date: String,
    commit: String,
}

impl Machine {
    /// This one, now. What cannot be told is said to be unknown: it is no reason not to measure.
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
        let cpu = read("/proc/cpuinfo");
        Self {
            processor: or_unknown(value(&cpu, "model name", ':').map(ToOwned::to_owned)),
            cores: thread::available_parallelism().map_or(0, Into::into),
            memory: or_unknown(memory(&read("/proc/meminfo"))),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load(),
            date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
            commit: or_unknown(commit()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            processor,
            cores,
            memory,
            ..
        } = self;
        writeln!(
            f,
            "- machine: {cores} cores of {processor}, {memory} of memory, Linux {}",
            self.kernel
        )?;
        writeln!(f, "- load average before: {}", self.load)?;
        write!(f, "- {}, commit {}", self.date, self.commit)
    }
}

/// The load averages now, over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<_> = text.split_whitespace().take(3).collect();
    averages.join(" ")
}

fn value<'a>(text: &'a str, key: &str, separator: char) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
    pairs
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

fn memory(meminfo: &str) -> Option<String> {
    let total = value(meminfo, "MemTotal", ':')?;
    let kibibytes: u64 = total.strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(format!("{} GiB", (kibibytes + (1 << 19)) >> 20))
}

fn commit() -> Option<String> {
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    let changed = if changed { " with changes" } else { "" };
    Some(format!("{hash}{changed}"))
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(checkout()).args(arguments);
    let output = git.output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_once_however_many_there_are() {
        let cpuinfo =
            "processor\t: 0\nmodel name\t: Fast CPU @ 3.0\n\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(value(cpuinfo, "model name", ':'), Some("Fast CPU @ 3.0"));
        assert_eq!(value(cpuinfo, "vendor", ':'), None);
    }

    #[test]
    fn memory_is_told_in_whole_gibibytes() {
        for (meminfo, wanted) in [
            (
                "MemTotal:       24619308 kB\nMemFree: 1 kB\n",
                Some("23 GiB"),
            ),
            ("MemTotal:       16777216 kB\n", Some("16 GiB")),
            ("MemTotal: much\n", None),
            ("", None),
        ] {
            assert_eq!(memory(meminfo).as_deref(), wanted);
        }
    }
}
