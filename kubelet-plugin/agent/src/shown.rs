//! What a tick saw, as metrics.
//!
//! There are as many series as containers that have shares: a series ends with its container. Names in labels are those of
//! claims, which the API bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tessera_device::{Bytes, GpuUuid};
use tessera_sharing::{Limit, Standing, Violation};

use crate::mover::{CardError, CardReport, SeenContainer};

/// What the last ticks saw.
#[derive(Clone, Debug)]
pub struct Shown(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// By GPU and cgroup.
    containers: BTreeMap<(GpuUuid, String), Container>,
    missing: BTreeMap<GpuUuid, Bytes>,
    moved: u64,
    failures: u64,
    violations: [u64; Violation::ALL.len()],
    last: Instant,
}

#[derive(Debug)]
struct Container {
    seen: SeenContainer,
    peak: Bytes,
    standing: Standing,
}

impl Default for Shown {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            containers: BTreeMap::new(),
            missing: BTreeMap::new(),
            moved: 0,
            failures: 0,
            violations: [0; Violation::ALL.len()],
            last: Instant::now(),
        })))
    }
}

impl Shown {
    /// Makes it part of a page.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Whether a tick has ended within this time.
    pub fn is_fresh(&self, time: Duration) -> bool {
        self.state().last.elapsed() < time
    }

    /// Takes in what a tick saw. Cards of which it saw nothing stay as they were seen last.
    pub fn show(&self, cards: &[CardReport]) {
        let mut state = self.state();
        state.last = Instant::now();
        let mut before = std::mem::take(&mut state.containers);
        let known = std::mem::take(&mut state.missing);
        for CardReport { gpu, outcome } in cards {
            let seen = match outcome {
                Ok(seen) => seen,
                Err(error) => {
                    state.failures += u64::from(!matches!(error, CardError::Locked(_)));
                    let own = before.extract_if(.., |(of, _), _| of == gpu);
                    state.containers.extend(own);
                    let missing = known.get(gpu).map(|missing| (gpu.clone(), *missing));
                    state.missing.extend(missing);
                    continue;
                }
            };
            state.moved += seen.moved;
            state.failures += u64::try_from(seen.refused.len()).unwrap_or(u64::MAX);
            state.missing.insert(gpu.clone(), seen.missing);
            for container in &seen.containers {
                let key = (gpu.clone(), container.cgroup.clone());
                let shown = Container::after(before.remove(&key), container);
                state.containers.insert(key, shown.0);
                if let Some(violation) = shown.1 {
                    state.violations[violation as usize] += 1;
                }
            }
        }
    }

    /// Takes in that a tick saw nothing.
    pub fn failed(&self) {
        let mut state = self.state();
        state.last = Instant::now();
        state.failures += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Container {
    /// What is shown of a container now, and the violation that has begun.
    fn after(before: Option<Self>, seen: &SeenContainer) -> (Self, Option<Violation>) {
        let (peak, was) = before.map_or_else(
            || (Bytes(0), Standing::default()),
            |before| (before.peak, before.standing),
        );
        let standing = Standing::of(&seen.state, was);
        let begun = standing.violation.filter(|now| was.violation != Some(*now));
        let container = Self {
            seen: seen.clone(),
            peak: peak.max(seen.state.used),
            standing,
        };
        (container, begun)
    }

    fn limit(&self) -> Option<Bytes> {
        match self.seen.state.limit {
            Limit::At(Bytes(u64::MAX)) | Limit::Unset | Limit::Unenforced => None,
            Limit::At(limit) => Some(limit),
        }
    }
}

/// A gauge of containers.
struct Gauge {
    name: &'static str,
    help: &'static str,
    of: fn(&Container) -> Option<i64>,
}

fn bytes(Bytes(bytes): Bytes) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

const GAUGES: [Gauge; 6] = [
    Gauge {
        name: "tessera_share_memory_guarantee_bytes",
        help: "GPU memory that the container of a share always has",
        of: |container| Some(bytes(container.seen.state.guarantee)),
    },
    Gauge {
        name: "tessera_share_memory_ceiling_bytes",
        help: "GPU memory up to which the container of a share may grow",
        of: |container| Some(bytes(container.seen.state.ceiling)),
    },
    Gauge {
        name: "tessera_share_memory_limit_bytes",
        help: "GPU memory that the NVIDIA driver lets the container of a share have at the moment",
        of: |container| container.limit().map(bytes),
    },
    Gauge {
        name: "tessera_share_memory_used_bytes",
        help: "GPU memory that the container of a share has",
        of: |container| Some(bytes(container.seen.state.used)),
    },
    Gauge {
        name: "tessera_share_memory_peak_bytes",
        help: "The most GPU memory that the container of a share was seen to have since this process began",
        of: |container| Some(bytes(container.peak)),
    },
    Gauge {
        name: "tessera_share_memory_near_limit",
        help: "1 if the container of a share has nearly all that it may have at the moment",
        of: |container| Some(container.standing.near_limit.into()),
    },
];

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.state();
        for Gauge { name, help, of } in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for ((gpu, _), container) in &state.containers {
                let Some(value) = of(container) else {
                    continue;
                };
                let holder = container.seen.holder.as_ref();
                let claim = holder.map(|holder| &holder.claim);
                let labels = [
                    ("gpu", gpu.as_str()),
                    ("namespace", claim.map_or("", |claim| &claim.namespace)),
                    ("claim", claim.map_or("", |claim| &claim.name)),
                    (
                        "share",
                        holder
                            .and_then(|holder| holder.share.as_deref())
                            .unwrap_or(""),
                    ),
                ];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut missing = encoder.encode_descriptor(
            "tessera_memory_guarantees_missing_bytes",
            "GPU memory that is guaranteed to shares and in use by others, which have more than their guarantee",
            None,
            MetricType::Gauge,
        )?;
        for (gpu, lacking) in &state.missing {
            let gauge = ConstGauge::new(bytes(*lacking));
            gauge.encode(missing.encode_family(&[("gpu", gpu.as_str())])?)?;
        }
        let mut violations = encoder.encode_descriptor(
            "tessera_memory_violations",
            "How often a container of a share was found with GPU memory that it must not have",
            None,
            MetricType::Counter,
        )?;
        for violation in Violation::ALL {
            let count = ConstCounter::new(state.violations[violation as usize]);
            let labels = [("kind", violation.as_str())];
            count.encode(violations.encode_family(&labels)?)?;
        }
        for (name, help, count) in [
            (
                "tessera_memory_limits_moved",
                "Limits of GPU memory that were set",
                state.moved,
            ),
            (
                "tessera_memory_limit_failures",
                "Cards that could not be looked at, and limits that could not be set",
                state.failures,
            ),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(counter)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use tessera_device::testing::gpu_uuid;
    use tessera_sharing::{Pressed, Rungs, ShareState};

    use super::*;
    use crate::mover::Seen;

    const GIB: u64 = 1 << 30;

    fn report(used: u64, limit: u64) -> CardReport {
        let container = SeenContainer {
            cgroup: "/a".to_owned(),
            holder: None,
            state: ShareState {
                guarantee: Bytes(5 * GIB),
                ceiling: Bytes(140 * GIB),
                used: Bytes(used * GIB),
                limit: Limit::At(Bytes(limit * GIB)),
                rungs: Rungs::default(),
                pressed: Pressed::Not,
            },
        };
        CardReport {
            gpu: gpu_uuid(0),
            outcome: Ok(Seen {
                containers: vec![container],
                moved: 1,
                ..Seen::default()
            }),
        }
    }

    fn page(shown: &Shown) -> String {
        let mut registry = Registry::default();
        shown.register(&mut registry);
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    fn value(page: &str, name: &str) -> Option<String> {
        let mut lines = page.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| line.starts_with(name))?;
        line.rsplit(' ').next().map(ToOwned::to_owned)
    }

    #[test]
    fn a_series_ends_with_its_container_and_peaks_and_violations_are_kept_while_it_lasts() {
        let shown = Shown::default();
        shown.show(&[report(30, 20)]);
        shown.show(&[report(30, 20)]);
        shown.show(&[report(10, 20)]);
        let text = page(&shown);
        for (name, expected) in [
            ("tessera_share_memory_used_bytes", 10 * GIB),
            ("tessera_share_memory_peak_bytes", 30 * GIB),
            ("tessera_share_memory_limit_bytes", 20 * GIB),
            ("tessera_share_memory_near_limit", 0),
            ("tessera_memory_violations_total{kind=\"AboveLimit\"}", 1),
            ("tessera_memory_limits_moved_total", 3),
        ] {
            assert_eq!(value(&text, name), Some(expected.to_string()), "{name}");
        }
        shown.show(&[]);
        let text = page(&shown);
        assert_eq!(value(&text, "tessera_share_memory_used_bytes"), None);
        assert_eq!(
            value(&text, "tessera_memory_limits_moved_total").as_deref(),
            Some("3")
        );
    }

    #[test]
    fn a_card_that_does_not_answer_is_shown_as_it_was_seen_last_and_counted() {
        let shown = Shown::default();
        shown.show(&[report(10, 20)]);
        let silent = CardReport {
            gpu: gpu_uuid(0),
            outcome: Err(CardError::NoAnswer(
                tessera_kubelet_plugin::blocking::NoAnswer::TimedOut,
            )),
        };
        shown.show(&[silent]);
        let text = page(&shown);
        let used = value(&text, "tessera_share_memory_used_bytes");
        assert_eq!(used, Some((10 * GIB).to_string()));
        let failures = value(&text, "tessera_memory_limit_failures_total");
        assert_eq!(failures.as_deref(), Some("1"));
    }
}
