//! Counts what the publisher does.

use std::collections::BTreeSet;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tessera_offer::FieldPath;
use tracing::warn;

use crate::publisher::Observer;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The publisher's metrics.
#[derive(Debug)]
pub struct SliceMetrics {
    writes: Counter,
    failures: Family<Reason, Counter>,
    dropped: Gauge,
    shareable: Gauge,
}

impl SliceMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            writes: Counter::default(),
            failures: Family::default(),
            dropped: Gauge::default(),
            shareable: Gauge::default(),
        };
        registry.register(
            "tessera_slice_writes",
            "ResourceSlices created, replaced or deleted",
            metrics.writes.clone(),
        );
        registry.register(
            "tessera_slice_write_failures",
            "Calls about ResourceSlices that failed, by reason",
            metrics.failures.clone(),
        );
        registry.register(
            "tessera_slice_dropped_fields",
            "Fields of the ResourceSlices that the API server does not store",
            metrics.dropped.clone(),
        );
        registry.register(
            "tessera_shareable_devices",
            "Devices in the ResourceSlices that several claims can share",
            metrics.shareable.clone(),
        );
        metrics
    }
}

impl Observer for SliceMetrics {
    fn published(&self, writes: usize) {
        self.writes
            .inc_by(u64::try_from(writes).unwrap_or(u64::MAX));
    }

    fn shareable(&self, devices: usize) {
        self.shareable
            .set(i64::try_from(devices).unwrap_or(i64::MAX));
    }

    fn write_failed(&self, reason: &'static str) {
        self.failures.get_or_create(&Reason { reason }).inc();
    }

    fn fields_dropped(&self, fields: &BTreeSet<FieldPath>) {
        self.dropped
            .set(i64::try_from(fields.len()).unwrap_or(i64::MAX));
        warn!(
            ?fields,
            "the API server does not store these fields; a feature gate is off"
        );
    }
}
