//! What the metrics say of the driver and its GPUs, read when they are scraped.

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tessera_device::Inventory;
use tessera_device::follow::{Absence, Known};

use super::HardwareWatch;

/// State of a GPU that answers and is offered.
const READY: &str = "ready";

/// State of a GPU that was there when there was a driver.
const NO_DRIVER: &str = "no_driver";

/// `tessera_driver_ready`, `tessera_driver_silent_seconds` and `tessera_gpus{state}`.
#[derive(Debug)]
pub struct HardwareMetrics(HardwareWatch);

impl HardwareMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry, hardware: HardwareWatch) {
        registry.register_collector(Box::new(Self(hardware)));
    }
}

impl Collector for HardwareMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let known = self.0.known();
        let silent = self.0.silent_since();
        let is_ready = matches!(known, Known::Present(_)) && silent.is_none();
        let ready = ConstGauge::new(i64::from(is_ready));
        ready.encode(encoder.encode_descriptor(
            "tessera_driver_ready",
            "Whether the NVIDIA driver is there and answers",
            None,
            MetricType::Gauge,
        )?)?;
        let seconds = silent.map_or(0.0, |since| since.elapsed().as_secs_f64());
        ConstGauge::new(seconds).encode(encoder.encode_descriptor(
            "tessera_driver_silent_seconds",
            "For how long a look at the driver has not come back, 0 if none is overdue",
            None,
            MetricType::Gauge,
        )?)?;
        let mut gpus = encoder.encode_descriptor(
            "tessera_gpus",
            "GPUs of the node by state",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in states(&known) {
            let labels = [("state", state)];
            ConstGauge::new(count).encode(gpus.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// How many GPUs are in which state. Every state is there, so that a sum over time has no gap.
fn states(known: &Known) -> BTreeMap<&'static str, i64> {
    let names = [READY, NO_DRIVER].into_iter().chain(Absence::LABELS);
    let mut states: BTreeMap<_, i64> = names.map(|name| (name, 0)).collect();
    let mut count = |name| *states.entry(name).or_default() += 1;
    match known {
        Known::Unseen => {}
        Known::Absent { last, .. } => {
            let last = last.iter().flat_map(Inventory::ever_seen);
            last.for_each(|_| count(NO_DRIVER));
        }
        Known::Present(inventory) => {
            inventory.gpus().iter().for_each(|_| count(READY));
            let missing = inventory.missing().iter().map(|missing| &missing.absence);
            let all = missing.chain(inventory.strangers());
            all.for_each(|absence| count(absence.label()));
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;
    use crate::testing::machine::hardware;

    fn page(watch: &HardwareWatch) -> String {
        let mut registry = Registry::default();
        HardwareMetrics::register(&mut registry, watch.clone());
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn a_scrape_tells_whether_there_is_a_driver_and_what_its_gpus_are() {
        let (hand, watch) = HardwareWatch::test();
        assert!(page(&watch).contains("tessera_driver_ready 0\n"));
        hand.set(Some(hardware()));
        let present = page(&watch);
        for line in [
            "tessera_driver_ready 1\n",
            "tessera_driver_silent_seconds 0.0\n",
            "tessera_gpus{state=\"ready\"} 8\n",
            "tessera_gpus{state=\"lost\"} 0\n",
        ] {
            assert!(present.contains(line), "{line}{present}");
        }
        hand.set(None);
        let gone = page(&watch);
        for line in [
            "tessera_driver_ready 0\n",
            "tessera_gpus{state=\"ready\"} 0\n",
            "tessera_gpus{state=\"no_driver\"} 8\n",
        ] {
            assert!(gone.contains(line), "{line}{gone}");
        }
    }
}
