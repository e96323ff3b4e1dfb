//! The health of devices, as the kubelet shows it in the pod's status.
//!
//! The kubelet asks for it whatever a driver advertises, and asks again every five seconds if
//! nobody answers. A GPU that answers the driver is healthy; one that did and does not any more is
//! not, and neither is any without a driver.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tessera_device::follow::Known;
use tessera_device::{Gpu, Inventory};
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
}

impl GpuHealth {
    /// Reports the GPUs of `pool`.
    pub fn new(pool: String, hardware: HardwareWatch) -> Self {
        Self { pool, hardware }
    }

    fn report(&self) -> Vec<DeviceHealth> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let known = self.hardware.known();
        let all = known.last().into_iter().flat_map(Inventory::ever_seen);
        let offered = all.flat_map(Gpu::offered);
        offered
            .map(|part| {
                let (health, message) = match trouble(&known, part.gpu) {
                    None => (HealthStatus::Healthy, String::new()),
                    Some(trouble) => (HealthStatus::Unhealthy, trouble),
                };
                DeviceHealth {
                    device: Some(DeviceIdentifier {
                        pool_name: self.pool.clone(),
                        device_name: part.name().to_string(),
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
