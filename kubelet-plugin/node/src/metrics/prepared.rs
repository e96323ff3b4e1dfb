//! Counts prepared devices when somebody asks, not at every call.
//!
//! The gauge is a function of the journal, so it is right after a restart, and a Prepare does not
//! pay for a figure that is read every half minute.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tessera_prepare::record::{Phase, RecordedDevice};
use tessera_shell::logging::chain;
use tracing::warn;

use crate::journal::{JournalError, Records};

/// The gauge `nvidia_dra_prepared_devices`, taken from the journal at each scrape.
#[derive(Debug)]
pub struct PreparedDevices<R, D> {
    records: R,
    node: String,
    driver: String,
    devices: PhantomData<fn() -> D>,
}

impl<R: Records<D> + fmt::Debug + Send + Sync + 'static, D: RecordedDevice> PreparedDevices<R, D> {
    /// Registers it for one driver on one node, whose devices are of this type.
    pub fn register(registry: &mut Registry, records: R, driver: &str, node: &str) {
        registry.register_collector(Box::new(Self {
            records,
            node: node.to_owned(),
            driver: driver.to_owned(),
            devices: PhantomData,
        }));
    }
}

/// How many devices of each type are prepared at present.
pub(crate) fn count<D: RecordedDevice>(
    records: &impl Records<D>,
) -> Result<BTreeMap<&'static str, usize>, JournalError> {
    let contents = records.read_all()?;
    let prepared = contents.records.iter();
    let prepared = prepared.filter(|record| record.phase == Phase::Prepared);
    let mut counts: BTreeMap<_, _> = D::TYPES.iter().map(|name| (*name, 0)).collect();
    for device in prepared.flat_map(|record| &record.devices) {
        *counts.entry(device.device_type()).or_default() += 1;
    }
    Ok(counts)
}

impl<R: Records<D> + fmt::Debug + Send + Sync + 'static, D: RecordedDevice> Collector
    for PreparedDevices<R, D>
{
    /// Leaves the gauge out where the journal cannot be read: a gap is true, a zero is not.
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = match count(&self.records) {
            Ok(counts) => counts,
            Err(error) => {
                warn!(error = %chain(&error), "prepared devices were not counted");
                return Ok(());
            }
        };
        let mut devices = encoder.encode_descriptor(
            "nvidia_dra_prepared_devices",
            "Devices that are prepared at present",
            None,
            MetricType::Gauge,
        )?;
        for (device_type, count) in counts {
            let labels = [
                ("node", self.node.as_str()),
                ("driver", self.driver.as_str()),
                ("device_type", device_type),
            ];
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(devices.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tessera_prepare::cdi::CdiKind;

    use super::*;
    use crate::journal::Journal;
    use crate::testing::record;

    #[test]
    fn the_gauge_follows_the_journal_and_counts_only_what_is_prepared() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path(), CdiKind::claim()).unwrap();
        let mut registry = Registry::default();
        PreparedDevices::register(&mut registry, journal.clone(), "gpu.nvidia.com", "node0");
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
            line.to_owned()
        };
        let labels = r#"{node="node0",driver="gpu.nvidia.com",device_type="gpu"}"#;
        assert_eq!(shown(), format!("nvidia_dra_prepared_devices{labels} 0"));

        journal.write(&record("a", &[0, 1])).unwrap();
        let mut begun = record("b", &[2]);
        begun.phase = Phase::Preparing;
        journal.write(&begun).unwrap();
        assert_eq!(shown(), format!("nvidia_dra_prepared_devices{labels} 2"));
    }
}
