//! Metrics that every process of ours has.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The kernel's account of this process, in a line `VmRSS:  9012 kB`.
const STATUS_FILE: &str = "/proc/self/status";

/// Registers `tessera_build_info{version}` and `process_resident_memory_bytes`.
///
/// The second keeps the name that Prometheus's own client libraries use, so that common dashboards
/// find it.
pub fn register_process(registry: &mut Registry) {
    registry.register(
        "tessera_build",
        "The release that this process was built from",
        Info::new(vec![("version", crate::VERSION)]),
    );
    registry.register_collector(Box::new(ResidentMemory));
}

#[derive(Debug)]
struct ResidentMemory;

impl Collector for ResidentMemory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        // Without procfs the metric is absent, which says more than a zero.
        let Some(bytes) = std::fs::read_to_string(STATUS_FILE)
            .ok()
            .and_then(|status| resident_bytes(&status))
        else {
            return Ok(());
        };
        let gauge = ConstGauge::new(bytes);
        let metric = encoder.encode_descriptor(
            "process_resident_memory_bytes",
            "Resident memory of this process in bytes",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

fn resident_bytes(status: &str) -> Option<i64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_kernels_status_file() {
        assert_eq!(
            resident_bytes("Name:\tx\nVmRSS:\t    9012 kB\nRssAnon:\t1 kB\n"),
            Some(9_228_288)
        );
        for damaged in [
            "",
            "VmRSS:",
            "VmRSS: kB",
            "VmRSS: 12 MB",
            "VmRSS: 9223372036854775807 kB",
        ] {
            assert_eq!(resident_bytes(damaged), None, "{damaged:?}");
        }
    }

    #[test]
    fn a_scrape_names_the_release_and_the_memory() {
        let mut registry = Registry::default();
        register_process(&mut registry);
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        let release = format!("tessera_build_info{{version=\"{}\"}} 1\n", crate::VERSION);
        assert!(page.contains(&release), "{page}");
        assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
    }
}
