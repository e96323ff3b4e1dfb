//! What the metrics say of the driver and its GPUs, read when they are scraped.

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tessera_device::Inventory;
use tessera_device::follow::{Absence, Known};
use tessera_device::mig::{MigMode, MigState};

use super::HardwareWatch;

/// State of a GPU that answers and is offered.
const READY: &str = "ready";

/// State of a GPU that was there when there was a driver.
const NO_DRIVER: &str = "no_driver";

/// `tessera_driver_ready`, `tessera_driver_silent_seconds`, and how many GPUs and MIG devices there are
/// in which state.
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
        encode_mig(&known, &mut encoder)
    }
}

fn encode_mig(known: &Known, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let present = match known {
        Known::Present(inventory) => inventory.gpus(),
        Known::Absent { .. } | Known::Unseen => &[],
    };
    let states: Vec<&MigState> = present.iter().filter_map(|gpu| gpu.mig.as_ref()).collect();
    let mut gpus = encoder.encode_descriptor(
        "tessera_mig_gpus",
        "GPUs that have MIG, by what they are used as: pending ones wait for a reset to change mode",
        None,
        MetricType::Gauge,
    )?;
    for state in MIG_STATES {
        let count = states.iter().filter(|mig| mig_state(mig) == state).count();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let labels = [("state", state)];
        ConstGauge::new(count).encode(gpus.encode_family(&labels)?)?;
    }
    let mut devices = encoder.encode_descriptor(
        "tessera_mig_devices",
        "MIG devices of the node, by whether they can be given to anybody",
        None,
        MetricType::Gauge,
    )?;
    let ready = states.iter().map(|mig| mig.instances.len()).sum::<usize>();
    let unusable = states.iter().map(|mig| mig.unusable.len()).sum::<usize>();
    for (state, count) in [(READY, ready), ("unusable", unusable)] {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let labels = [("state", state)];
        ConstGauge::new(count).encode(devices.encode_family(&labels)?)?;
    }
    Ok(())
}

/// What GPUs that have MIG can be used as, each as one of these.
const MIG_STATES: [&str; 4] = ["whole", "cut", "stranded", "pending"];

fn mig_state(mig: &MigState) -> &'static str {
    let [whole, cut, stranded, pending] = MIG_STATES;
    match mig.mode {
        _ if mig.waiting().is_some() => pending,
        MigMode::Off => whole,
        MigMode::On if mig.is_stranded() => stranded,
        MigMode::On => cut,
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

    use tessera_device::testing::{cut, driver, gpu};

    use super::*;
    use crate::hardware::Hardware;
    use crate::testing::machine::hardware;

    fn page(watch: &HardwareWatch) -> String {
        let mut registry = Registry::default();
        HardwareMetrics::register(&mut registry, watch.clone());
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn a_scrape_tells_how_gpus_are_cut_and_which_wait_for_a_reset() {
        let (hand, watch) = HardwareWatch::test();
        let mut waiting = gpu(3);
        waiting.mig.as_mut().unwrap().pending = MigMode::On;
        let mut without = gpu(4);
        without.mig = None;
        let mut broken = cut(gpu(5), &["7g.80gb"]);
        broken
            .mig
            .as_mut()
            .unwrap()
            .unusable
            .push("MIG device 1".to_owned());
        let gpus = vec![
            gpu(0),
            cut(gpu(1), &["1g.10gb", "1g.10gb"]),
            cut(gpu(2), &[]),
            waiting,
            without,
            broken,
        ];
        hand.set(Some(Hardware {
            inventory: Inventory::new(driver("580"), gpus).unwrap(),
            ..hardware()
        }));
        let page = page(&watch);
        for line in [
            "tessera_mig_gpus{state=\"whole\"} 1\n",
            "tessera_mig_gpus{state=\"cut\"} 2\n",
            "tessera_mig_gpus{state=\"stranded\"} 1\n",
            "tessera_mig_gpus{state=\"pending\"} 1\n",
            "tessera_mig_devices{state=\"ready\"} 3\n",
            "tessera_mig_devices{state=\"unusable\"} 1\n",
        ] {
            assert!(page.contains(line), "{line}{page}");
        }
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
