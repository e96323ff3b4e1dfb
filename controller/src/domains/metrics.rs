//! Metrics of compute domains.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tessera_domain::Write;

use std::collections::BTreeMap;

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    domains: Family<ReasonLabels, Gauge>,
    writes: Family<WriteLabels, Counter>,
    events: Family<EventLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    verb: &'static str,
    fate: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EventLabels {
    fate: &'static str,
}

impl Metrics {
    /// Makes them part of a page.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tessera_compute_domains",
            "Compute domains by the reason of their condition Ready",
            self.domains.clone(),
        );
        registry.register(
            "tessera_domain_writes",
            "Writes to the API server for compute domains, by kind, verb and fate",
            self.writes.clone(),
        );
        registry.register(
            "tessera_domain_events",
            "Events about compute domains, by fate",
            self.events.clone(),
        );
    }

    /// How the domains stand.
    pub fn stand(&self, reasons: &BTreeMap<&'static str, usize>) {
        self.domains.clear();
        for (reason, count) in reasons {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.domains
                .get_or_create(&ReasonLabels { reason })
                .set(count);
        }
    }

    /// A write was done, or was not.
    pub fn wrote(&self, write: &Write, fate: &'static str) {
        let labels = WriteLabels {
            kind: write.kind.as_str(),
            verb: write.verb.as_str(),
            fate,
        };
        self.writes.get_or_create(&labels).inc();
    }

    /// An event was written, or was not.
    pub fn told(&self, fate: &'static str) {
        self.events.get_or_create(&EventLabels { fate }).inc();
    }
}
