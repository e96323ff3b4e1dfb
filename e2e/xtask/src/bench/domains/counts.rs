//! Writes to the API: those that the driver's programs count, and all of them as the API server counts them.

use std::collections::BTreeMap;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope};
use tessera_scenarios::release::RELEASE;

use super::super::exposition::{samples, total};

/// Verbs of writes, as the API server's metrics have them.
const WRITES: [&str; 6] = [
    "POST",
    "PUT",
    "PATCH",
    "APPLY",
    "DELETE",
    "DELETECOLLECTION",
];

/// Running totals at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    /// Of the controller, by what and fate.
    controller: BTreeMap<(String, String), f64>,
    plugins: f64,
    plugins_failed: f64,
    server: f64,
}

/// What was written between two moments.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in super::super) struct Writes(Counts);

impl Counts {
    /// The totals now.
    pub(super) fn now(kubernetes: Kubernetes<'_>) -> anyhow::Result<Self> {
        let mut counts = Self {
            server: by_anyone(&kubernetes.raw("/metrics")?),
            ..Self::default()
        };
        let pods: Objects<Pod> = kubernetes.list(Scope::Namespace(RELEASE))?;
        let mut seen = 0;
        for (name, pod) in &pods {
            let labels = pod.metadata.labels.as_ref();
            let component = labels.and_then(|labels| labels.get("app.kubernetes.io/component"));
            let port = match component.map(String::as_str) {
                Some("controller") => 8080,
                Some("kubelet-plugin") => 8081,
                _ => continue,
            };
            let path = format!("/api/v1/namespaces/{RELEASE}/pods/{name}:{port}/proxy/metrics");
            let page = kubernetes.raw(&path)?;
            if port == 8080 {
                counts.add_controller(&page);
            } else {
                counts.add_plugin(&page);
            }
            seen += 1;
        }
        ensure!(seen > 1, "find the controller's pod and the plugin's");
        Ok(counts)
    }

    fn add_controller(&mut self, page: &str) {
        for sample in samples(page) {
            let what = match sample.name {
                "tessera_domain_writes_total" => {
                    format!("{} {}", sample.label("verb"), sample.label("kind"))
                }
                "tessera_domain_events_total" => "event".to_owned(),
                _ => continue,
            };
            let fate = sample.label("fate").to_owned();
            *self.controller.entry((what, fate)).or_default() += sample.value;
        }
    }

    fn add_plugin(&mut self, page: &str) {
        let failed = total(page, "tessera_slice_write_failures_total", |_| true);
        self.plugins += total(page, "tessera_slice_writes_total", |_| true) + failed;
        self.plugins_failed += failed;
    }

    /// What was written since.
    pub(super) fn since(&self, earlier: &Self) -> Writes {
        let mut controller = self.controller.clone();
        for (key, before) in &earlier.controller {
            *controller.entry(key.clone()).or_default() -= before;
        }
        controller.retain(|_, count| *count > 0.0);
        Writes(Self {
            controller,
            plugins: self.plugins - earlier.plugins,
            plugins_failed: self.plugins_failed - earlier.plugins_failed,
            server: self.server - earlier.server,
        })
    }
}

impl Writes {
    /// Of the controller, with or without effect.
    pub(super) fn of_controller(&self) -> f64 {
        self.0.controller.values().sum()
    }

    /// Of the plugins of all nodes.
    pub(super) fn of_plugins(&self) -> f64 {
        self.0.plugins
    }

    /// Those that had no effect.
    pub(super) fn without_effect(&self) -> f64 {
        let failed = self.0.controller.iter();
        let failed = failed.filter(|((_, fate), _)| fate != "ok");
        failed.map(|(_, count)| count).sum::<f64>() + self.0.plugins_failed
    }

    /// By whomever, to everything but Leases and the state of nodes.
    pub(super) fn by_anyone(&self) -> f64 {
        self.0.server
    }

    /// The controller's, by what they were.
    pub(super) fn told(&self) -> String {
        let each = self.0.controller.iter();
        let each = each.map(|((what, fate), count)| match fate.as_str() {
            "ok" => format!("{count:.0} {what}"),
            fate => format!("{count:.0} {what} ({fate})"),
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

fn by_anyone(page: &str) -> f64 {
    total(page, "apiserver_request_total", |sample| {
        let beats = sample.label("resource") == "leases"
            || (sample.label("resource"), sample.label("subresource")) == ("nodes", "status");
        WRITES.contains(&sample.label("verb")) && !beats
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_by_what_they_were_and_those_without_effect_are_counted() {
        let (mut before, mut after) = (Counts::default(), Counts::default());
        let page = |patches: u32, conflicts: u32| {
            format!(
                "tessera_domain_writes_total{{kind=\"node\",verb=\"patch\",fate=\"ok\"}} {patches}
tessera_domain_writes_total{{kind=\"node\",verb=\"patch\",fate=\"conflict\"}} {conflicts}
tessera_domain_events_total{{fate=\"ok\"}} 1
tessera_compute_domains{{reason=\"x\"}} 7
"
            )
        };
        before.add_controller(&page(1, 0));
        after.add_controller(&page(3, 1));
        let writes = after.since(&before);
        assert_eq!(writes.told(), "1 patch node (conflict), 2 patch node");
        assert!((writes.of_controller() - 3.0).abs() < f64::EPSILON);
        assert!((writes.without_effect() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_comes_without_anything_to_do_is_not_counted() {
        let page = r#"
apiserver_request_total{resource="nodes",subresource="status",verb="PATCH"} 100
apiserver_request_total{resource="leases",subresource="",verb="PUT"} 100
apiserver_request_total{resource="pods",subresource="",verb="GET"} 100
apiserver_request_total{resource="nodes",subresource="",verb="PATCH"} 2
apiserver_request_total{resource="pods",subresource="status",verb="PATCH"} 3
"#;
        assert!((by_anyone(page) - 5.0).abs() < f64::EPSILON);
    }
}
