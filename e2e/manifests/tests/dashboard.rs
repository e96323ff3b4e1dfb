//! The dashboard against the metrics that the programs register.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tessera_manifests::chart::{Install, chart};
use tessera_manifests::sources::rust_files;

/// What a metric is, which says under which names a scrape shows it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

use Kind::{Counter, Gauge, Histogram, Info};

/// Every metric: its registered name, what it is, and its labels.
const METRICS: &[(&str, Kind, &[&str])] = &[
    ("nvidia_dra_requests", Counter, &["driver", "operation"]),
    (
        "nvidia_dra_request_duration_seconds",
        Histogram,
        &["driver", "operation"],
    ),
    (
        "nvidia_dra_requests_inflight",
        Gauge,
        &["driver", "operation"],
    ),
    (
        "nvidia_dra_prepared_devices",
        Gauge,
        &["node", "driver", "device_type"],
    ),
    (
        "nvidia_dra_node_prepare_errors",
        Counter,
        &["driver", "error_type"],
    ),
    (
        "nvidia_dra_node_unprepare_errors",
        Counter,
        &["driver", "error_type"],
    ),
    (
        "tessera_claim_duration_seconds",
        Histogram,
        &["driver", "operation"],
    ),
    (
        "tessera_refusals",
        Counter,
        &["driver", "operation", "reason"],
    ),
    (
        "tessera_wait_seconds",
        Histogram,
        &["driver", "operation", "reason"],
    ),
    ("tessera_waits", Gauge, &["driver", "operation", "reason"]),
    ("tessera_slice_writes", Counter, &[]),
    ("tessera_slice_write_failures", Counter, &["reason"]),
    ("tessera_slice_dropped_fields", Gauge, &[]),
    ("tessera_shareable_devices", Gauge, &[]),
    ("tessera_repairs", Counter, &["action"]),
    ("tessera_takeover_claims", Counter, &["fate"]),
    ("tessera_share_status_writes", Counter, &["fate"]),
    ("tessera_events", Counter, &["fate"]),
    ("tessera_worker_restarts", Counter, &[]),
    ("tessera_damaged_records", Counter, &[]),
    ("tessera_driver_ready", Gauge, &[]),
    ("tessera_driver_silent_seconds", Gauge, &[]),
    ("tessera_gpus", Gauge, &["state"]),
    ("tessera_mig_gpus", Gauge, &["state"]),
    ("tessera_mig_devices", Gauge, &["state"]),
    ("tessera_build", Info, &["version"]),
    ("tessera_controller_leader", Gauge, &[]),
    ("tessera_compute_domains", Gauge, &["reason"]),
    ("tessera_domain_writes", Counter, &["kind", "verb", "fate"]),
    ("tessera_domain_events", Counter, &["fate"]),
    ("process_resident_memory_bytes", Gauge, &[]),
];

/// What bounds the values of each label. None is a claim, a pod or a GPU.
const BOUNDS: &[(&str, &str)] = &[
    ("driver", "the drivers of this project"),
    ("operation", "prepare and unprepare"),
    ("node", "the one node that the process runs on"),
    ("device_type", "the device types of this project"),
    ("error_type", "literals of the code"),
    ("reason", "literals of the code"),
    ("action", "literals of the code"),
    ("fate", "literals of the code"),
    ("kind", "the kinds that the controller watches"),
    ("verb", "create, patch, status and delete"),
    ("state", "literals of the code"),
    ("version", "the one release of the process"),
];

/// The sources of what runs in the cluster, without their tests.
fn sources() -> String {
    let files = rust_files(&["kubelet-plugin/node/src", "controller/src", "shell/src"]).unwrap();
    let code = files.iter().filter(|(path, _)| !path.ends_with("tests.rs"));
    code.filter_map(|(_, text)| text.split("mod tests {").next())
        .collect()
}

fn is_metric(word: &str) -> bool {
    ["nvidia_dra_", "tessera_", "process_"]
        .iter()
        .any(|prefix| {
            word.strip_prefix(prefix)
                .is_some_and(|rest| !rest.is_empty())
        })
}

/// The names under which a scrape shows a metric.
fn shown(name: &str, kind: Kind) -> Vec<String> {
    let suffixes: &[&str] = match kind {
        Counter => &["_total"],
        Gauge => &[""],
        Histogram => &["_bucket", "_count", "_sum"],
        Info => &["_info"],
    };
    suffixes
        .iter()
        .map(|suffix| format!("{name}{suffix}"))
        .collect()
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(chart().join("dashboards/tessera.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let queries = variables
        .iter()
        .map(|variable| variable["query"].as_str().unwrap().to_owned());
    expressions.chain(queries).collect()
}

fn words(expression: &str) -> impl Iterator<Item = &str> {
    expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

#[test]
fn the_table_of_metrics_is_what_the_programs_register() {
    let sources = sources();
    let registered: BTreeSet<_> = sources
        .split('"')
        .filter(|text| is_metric(text) && words(text).count() == 1)
        .collect();
    let table: BTreeSet<_> = METRICS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(registered, table);
}

#[test]
fn each_label_of_a_metric_has_a_bound() {
    let bounds: BTreeMap<_, _> = BOUNDS.iter().copied().collect();
    let used: BTreeSet<_> = METRICS
        .iter()
        .flat_map(|(_, _, labels)| labels.iter().copied())
        .collect();
    assert_eq!(used, bounds.keys().copied().collect());
    let sources = sources();
    for set in sources.split("EncodeLabelSet)]").skip(1) {
        let fields = set.split('{').nth(1).unwrap().split('}').next().unwrap();
        for field in fields.lines().filter_map(|line| line.split_once(':')) {
            let name = field.0.trim();
            assert!(bounds.contains_key(name), "label {name:?} has no bound");
        }
    }
}

#[test]
fn every_metric_of_the_dashboard_is_one_that_a_scrape_shows() {
    let all: BTreeSet<_> = METRICS
        .iter()
        .flat_map(|(name, kind, _)| shown(name, *kind))
        .collect();
    let dashboard = dashboard();
    let mut seen = BTreeSet::new();
    for expression in expressions(&dashboard) {
        for word in words(&expression).filter(|word| is_metric(word)) {
            assert!(all.contains(word), "{word} in {expression}");
            seen.insert(word.to_owned());
        }
    }
    assert!(seen.len() > 15, "{seen:?}");
}

#[test]
fn every_metric_has_its_place_in_the_dashboard() {
    let dashboard = dashboard();
    let expressions = expressions(&dashboard);
    let seen: BTreeSet<&str> = expressions.iter().flat_map(|text| words(text)).collect();
    for (name, kind, _) in METRICS {
        let is_there = shown(name, *kind)
            .iter()
            .any(|shown| seen.contains(shown.as_str()));
        assert!(is_there, "{name}");
    }
}

#[test]
fn panels_have_numbers_and_places_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let numbers: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(numbers.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for row in at("y")..at("y") + at("h") {
            for column in at("x")..at("x") + at("w") {
                assert!(taken.insert((row, column)), "{}", panel["title"]);
            }
        }
    }
}

#[test]
fn the_dashboard_groups_by_labels_that_its_metrics_have() {
    for expression in expressions(&dashboard()) {
        let metric = METRICS.iter().find(|(name, kind, _)| {
            let shown = shown(name, *kind);
            words(&expression).any(|word| shown.iter().any(|name| name == word))
        });
        let labels = metric.map_or(&[][..], |(_, _, labels)| labels);
        for by in expression.split("by (").skip(1) {
            for label in by.split(')').next().unwrap().split(", ") {
                // Of the histogram itself, and of the scrape.
                let given = ["le", "pod"].contains(&label);
                assert!(given || labels.contains(&label), "{label} in {expression}");
            }
        }
    }
}

#[test]
fn rates_are_taken_of_counters_alone() {
    for expression in expressions(&dashboard()) {
        for function in ["rate(", "increase("] {
            for inner in expression.split(function).skip(1) {
                let name = words(inner).next().unwrap();
                let counts = ["_total", "_bucket", "_count", "_sum"];
                assert!(counts.iter().any(|end| name.ends_with(end)), "{expression}");
            }
        }
    }
}

#[test]
fn the_config_map_carries_the_dashboard_and_the_label_of_the_sidecar() {
    let install = Install::default().set("monitoring.dashboard.enabled=true");
    let documents = install.render().unwrap();
    let map = documents
        .iter()
        .find(|document| document["kind"] == "ConfigMap")
        .unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = map["data"]["tessera.json"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), dashboard());
    let none = Install::default().render().unwrap();
    assert!(!none.iter().any(|document| document["kind"] == "ConfigMap"));
}
