//! What is counted.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tessera_session::Report;

/// The metrics of the session.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    state: Family<StateLabels, Gauge>,
    unreachable: Gauge,
    starts: Counter,
    failures: Counter,
    adoptions: Counter,
    reloads: Counter,
    writes: Family<WriteLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabels {
    fate: &'static str,
}

impl Metrics {
    /// Makes them part of a page.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            state,
            unreachable,
            starts,
            failures,
            adoptions,
            reloads,
            writes,
        } = self.clone();
        registry.register(
            "tessera_session_state",
            "1 for the state of the node's NVLink session",
            state,
        );
        registry.register(
            "tessera_session_unreachable_peers",
            "Peers with an address to which nvidia-imex has no connection",
            unreachable,
        );
        registry.register(
            "tessera_session_starts",
            "How often nvidia-imex was started",
            starts,
        );
        registry.register(
            "tessera_session_failures",
            "How often nvidia-imex ended by itself",
            failures,
        );
        registry.register(
            "tessera_session_adoptions",
            "Whether this process went on with the nvidia-imex of the one before it",
            adoptions,
        );
        registry.register(
            "tessera_session_reloads",
            "How often nvidia-imex was told to look its peers up again",
            reloads,
        );
        registry.register(
            "tessera_session_writes",
            "Writes to the status of the NVLinkClique, by fate",
            writes,
        );
    }

    pub(crate) fn is(&self, report: &Report) {
        self.state.clear();
        let state = report.state.clone();
        self.state.get_or_create(&StateLabels { state }).set(1);
        let unreachable = i64::try_from(report.unreachable.len());
        self.unreachable.set(unreachable.unwrap_or(i64::MAX));
    }

    pub(crate) fn started(&self) {
        self.starts.inc();
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    pub(crate) fn adopted(&self) {
        self.adoptions.inc();
    }

    pub(crate) fn reloaded(&self) {
        self.reloads.inc();
    }

    pub(crate) fn wrote(&self, fate: &'static str) {
        self.writes.get_or_create(&WriteLabels { fate }).inc();
    }
}
