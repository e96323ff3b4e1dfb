//! How much memory a process has, by the kernel's account in `/proc/<pid>/status`.

use std::fs;

use anyhow::Context as _;

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// `VmRSS`: all of it, with the program's own pages.
    pub(super) resident: u64,
    /// `RssAnon`: what no file backs.
    pub(super) anonymous: u64,
}

/// That of a process.
pub(super) fn of(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse(&text).with_context(|| format!("find VmRSS and RssAnon in {path}"))
}

fn parse(status: &str) -> Option<Memory> {
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(Memory {
        resident: bytes("VmRSS:")?,
        anonymous: bytes("RssAnon:")?,
    })
}

/// The process of this name in the containers of a pod, as the machine counts processes.
///
/// The kubelet puts each pod into a cgroup that is named by its UID.
pub(super) fn process(pod_uid: &str, name: &str) -> Option<u32> {
    let group = format!("/pod{pod_uid}/");
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        read("comm").is_ok_and(|comm| comm.trim_end() == comm_of(name))
            && read("cgroup").is_ok_and(|groups| groups.contains(&group))
    };
    pids.into_iter().find(is_it)
}

/// A process's name as the kernel keeps it: 15 bytes (`TASK_COMM_LEN` without its NUL).
fn comm_of(name: &str) -> &str {
    name.get(..15).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_and_anonymous_memory_are_read_in_bytes() {
        let status = "Name:\tx\nVmRSS:\t    9012 kB\nRssAnon:\t     800 kB\nRssFile:\t8212 kB\n";
        let wanted = Memory {
            resident: 9_228_288,
            anonymous: 819_200,
        };
        assert_eq!(parse(status), Some(wanted));
    }

    #[test]
    fn a_process_without_memory_has_no_account() {
        for status in ["", "VmRSS:\t1 kB\n", "VmRSS:\t1 MB\nRssAnon:\t1 kB\n"] {
            assert_eq!(parse(status), None, "{status:?}");
        }
    }

    #[test]
    fn the_kernel_cuts_names() {
        assert_eq!(comm_of("tessera-kubelet-plugin"), "tessera-kubelet");
        assert_eq!(comm_of("sh"), "sh");
    }
}
