//! The health of devices, as the kubelet shows it in the pod's status.
//!
//! The kubelet asks for it whatever a driver advertises, and asks again every five seconds if
//! nobody answers. A GPU that answers the driver is healthy; one that did and does not any more is
//! not, and neither is any without a driver.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tessera_device::follow::Known;
use tessera_device::mig::{Choices, MigLayouts};
use tessera_device::{DeviceName, Gpu, Inventory};
use tessera_proto::DraResourceHealth;
use tessera_proto::health::v1::{DeviceHealth, DeviceIdentifier, HealthStatus};

use crate::hardware::HardwareWatch;

/// How long the kubelet may believe a report. It is a third of this between two reports.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Reports the health of this node's GPUs.
#[derive(Clone, Debug)]
pub struct GpuHealth {
    pool: String,
    hardware: HardwareWatch,
    layouts: MigLayouts,
}

impl GpuHealth {
    /// Reports the GPUs of `pool`.
    pub fn new(pool: String, hardware: HardwareWatch, layouts: MigLayouts) -> Self {
        Self {
            pool,
            hardware,
            layouts,
        }
    }

    fn report(&self) -> Vec<DeviceHealth> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let known = self.hardware.known();
        let all = known.last().into_iter().flat_map(Inventory::ever_seen);
        let offered = all.flat_map(|gpu| {
            let names = names(gpu, self.layouts);
            names.into_iter().map(move |name| (gpu, name))
        });
        offered
            .map(|(gpu, name)| {
                let (health, message) = match trouble(&known, gpu) {
                    None => (HealthStatus::Healthy, String::new()),
                    Some(trouble) => (HealthStatus::Unhealthy, trouble),
                };
                DeviceHealth {
                    device: Some(DeviceIdentifier {
                        pool_name: self.pool.clone(),
                        device_name: name.to_string(),
                    }),
                    health: health.into(),
                    last_updated_time: i64::try_from(now).unwrap_or(i64::MAX),
                    health_check_timeout_seconds: i64::try_from(TIMEOUT.as_secs())
                        .unwrap_or(i64::MAX),
                    message,
                }
            })
            .collect()
    }
}

/// The names under which a GPU and its parts may be in use. Where claims have it cut, that may be other
/// names than the last look tells.
fn names(gpu: &Gpu, layouts: MigLayouts) -> BTreeSet<DeviceName> {
    let mut names: BTreeSet<_> = gpu.offered().map(|part| part.name()).collect();
    if layouts == MigLayouts::Dynamic
        && let Some(choices) = Choices::of(gpu, |_, _| true)
    {
        let slots = choices.slots.iter();
        names.extend(slots.map(|slot| slot.device_name(gpu.minor)));
        names.extend(choices.whole.then(|| gpu.device_name()));
    }
    names
}

/// What is wrong with a GPU, if anything is.
fn trouble(known: &Known, gpu: &Gpu) -> Option<String> {
    match known {
        Known::Unseen => None,
        Known::Absent { why, .. } => Some(format!("there is no NVIDIA driver: {why}")),
        Known::Present(inventory) => {
            let mut missing = inventory.missing().iter();
            let found = missing.find(|missing| missing.gpu.uuid == gpu.uuid);
            found.map(|missing| format!("GPU {} {}", gpu.uuid, missing.absence))
        }
    }
}

impl DraResourceHealth for GpuHealth {
    fn watch(&self) -> BoxStream<'static, Vec<DeviceHealth>> {
        let mut timer = tokio::time::interval(TIMEOUT / 3);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        stream::unfold((self.clone(), timer), async |(mut health, mut timer)| {
            tokio::select! {
                _ = timer.tick() => {}
                () = health.hardware.changed() => {}
            }
            Some((health.report(), (health, timer)))
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tessera_device::mig::MigMode;

    use super::*;
    use crate::testing::cutting::h100;

    #[test]
    fn a_gpu_that_claims_have_cut_is_reported_under_every_name_that_it_may_be_in_use_by() {
        let gpu = h100(3, MigMode::On);
        assert_eq!(names(&gpu, MigLayouts::Static), BTreeSet::new());
        let names = names(&gpu, MigLayouts::Dynamic);
        assert_eq!(names.len(), 26);
        for name in ["gpu-3", "gpu-3-mig-1g10gb-19-6"] {
            assert!(names.contains(&name.parse().unwrap()), "{name}");
        }
    }
}
