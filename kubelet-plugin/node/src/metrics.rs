//! The plugin's metrics.
//!
//! Those that dashboards of the reference driver read keep its names (`nvidia_dra_…`); what it does
//! not measure is under `tessera_…`. Labels are bounded: no claim, pod or device is one.

pub(crate) mod prepared;

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tessera_prepare::notice::Action;
use tessera_prepare::reason::Reason;

pub use self::prepared::PreparedDevices;

/// Upper bounds in seconds of the reference's histogram: 0.05·2^i. Its dashboards expect them.
const REFERENCE_BUCKETS: [f64; 9] = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8];

/// Upper bounds in seconds of ours: a Prepare takes a few milliseconds, so that is where a change
/// must be visible.
const FINE_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.25, 1.0, 5.0, 45.0,
];

/// What the kubelet asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(
    non_camel_case_types,
    reason = "label values are the reference's lower-case words"
)]
pub enum Operation {
    /// `NodePrepareResources`.
    prepare,
    /// `NodeUnprepareResources`.
    unprepare,
}

impl Operation {
    /// The same for those who are told about it.
    pub fn action(self) -> Action {
        match self {
            Self::prepare => Action::Prepare,
            Self::unprepare => Action::Unprepare,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    driver: String,
    operation: Operation,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    driver: String,
    operation: Operation,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    driver: String,
    error_type: &'static str,
}

/// The metrics of one driver on one node.
#[derive(Clone, Debug)]
pub struct Metrics {
    driver: String,
    requests: Family<RequestLabels, Counter>,
    duration: Family<RequestLabels, Histogram, fn() -> Histogram>,
    claim_duration: Family<RequestLabels, Histogram, fn() -> Histogram>,
    inflight: Family<RequestLabels, Gauge>,
    prepare_errors: Family<ErrorLabels, Counter>,
    unprepare_errors: Family<ErrorLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry, driver: &str) -> Self {
        let metrics = Self {
            driver: driver.to_owned(),
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(REFERENCE_BUCKETS)),
            claim_duration: Family::new_with_constructor(|| Histogram::new(FINE_BUCKETS)),
            inflight: Family::default(),
            prepare_errors: Family::default(),
            unprepare_errors: Family::default(),
            refusals: Family::default(),
        };
        let Self {
            requests,
            duration,
            claim_duration,
            inflight,
            ..
        } = &metrics;
        let Self {
            prepare_errors,
            unprepare_errors,
            refusals,
            ..
        } = &metrics;
        registry.register(
            "nvidia_dra_requests",
            "Claims prepared or unprepared with success",
            requests.clone(),
        );
        registry.register(
            "nvidia_dra_request_duration_seconds",
            "Time per claim prepared or unprepared with success",
            duration.clone(),
        );
        registry.register(
            "nvidia_dra_requests_inflight",
            "Claims that are being prepared or unprepared",
            inflight.clone(),
        );
        registry.register(
            "nvidia_dra_node_prepare_errors",
            "Claims that were not prepared",
            prepare_errors.clone(),
        );
        registry.register(
            "nvidia_dra_node_unprepare_errors",
            "Claims that were not unprepared",
            unprepare_errors.clone(),
        );
        registry.register(
            "tessera_claim_duration_seconds",
            "Time per claim, whatever the outcome",
            claim_duration.clone(),
        );
        registry.register(
            "tessera_refusals",
            "Claims refused or failed, by reason; docs/errors.md explains each",
            refusals.clone(),
        );
        metrics
    }

    /// Notes that a claim is being worked on, until the value is dropped.
    pub fn begin(&self, operation: Operation) -> Inflight {
        let gauge = self
            .inflight
            .get_or_create(&self.request(operation))
            .clone();
        gauge.inc();
        Inflight(gauge)
    }

    /// Notes how a claim went.
    pub fn end(&self, operation: Operation, time: Duration, outcome: Result<(), Reason>) {
        let labels = self.request(operation);
        let seconds = time.as_secs_f64();
        self.claim_duration.get_or_create(&labels).observe(seconds);
        match outcome {
            Ok(()) => {
                self.duration.get_or_create(&labels).observe(seconds);
                self.requests.get_or_create(&labels).inc();
            }
            Err(reason) => {
                let driver = self.driver.clone();
                let (errors, error_type) = match operation {
                    Operation::prepare => (&self.prepare_errors, "prepare_devices"),
                    Operation::unprepare => (&self.unprepare_errors, "unprepare_devices"),
                };
                errors
                    .get_or_create(&ErrorLabels {
                        driver: driver.clone(),
                        error_type,
                    })
                    .inc();
                self.refusals
                    .get_or_create(&RefusalLabels {
                        driver,
                        operation,
                        reason: reason.as_str(),
                    })
                    .inc();
            }
        }
    }

    fn request(&self, operation: Operation) -> RequestLabels {
        RequestLabels {
            driver: self.driver.clone(),
            operation,
        }
    }
}

/// One claim that is being worked on.
#[derive(Debug)]
pub struct Inflight(Gauge);

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
