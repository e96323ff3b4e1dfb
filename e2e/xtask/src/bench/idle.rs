//! What the driver writes to the API while nothing happens.

use std::thread;
use std::time::{Duration, Instant};

use tessera_cluster::interrupt;
use tessera_scenarios::Failure;
use tessera_scenarios::kubernetes::Kubernetes;

use super::exposition::{Sample, total};
use super::plugin;

const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Writes in an idle time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Writes {
    /// By whomever, to what the plugin has the right to write: `ResourceSlices` and Events.
    pub(super) possible: f64,
    /// What the plugin says that it wrote.
    pub(super) own: f64,
    /// By whomever, to Leases: the controller renews one while it leads, and so do parts of Kubernetes.
    pub(super) leases: f64,
}

/// Waits for `time` and counts.
pub(super) fn writes(kubernetes: Kubernetes<'_>, time: Duration) -> anyhow::Result<Writes> {
    let before = count(kubernetes)?;
    wait(time)?;
    let after = count(kubernetes)?;
    Ok(Writes {
        possible: after.possible - before.possible,
        own: after.own - before.own,
        leases: after.leases - before.leases,
    })
}

/// Lets `time` pass.
pub(super) fn wait(time: Duration) -> Result<(), Failure> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if interrupt::requested() {
            return Err(Failure::Interrupted);
        }
        thread::sleep(LOOK_AGAIN.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// Requests carry no client's name in the API server's metrics, so all are counted that the plugin's role permits.
fn count(kubernetes: Kubernetes<'_>) -> anyhow::Result<Writes> {
    let server = kubernetes.raw("/metrics")?;
    let plugin = plugin::metrics(kubernetes)?;
    Ok(Writes {
        possible: written(&server, &["resourceslices", "events"]),
        own: total(&plugin, "tessera_slice_writes_total", |_| true),
        leases: written(&server, &["leases"]),
    })
}

fn written(scrape: &str, resources: &[&str]) -> f64 {
    let is_write = |sample: &Sample<'_>| {
        [
            "POST",
            "PUT",
            "PATCH",
            "APPLY",
            "DELETE",
            "DELETECOLLECTION",
        ]
        .contains(&sample.label("verb"))
    };
    total(scrape, "apiserver_request_total", |sample| {
        is_write(sample) && resources.contains(&sample.label("resource"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_and_reads_and_other_resources_are_not() {
        let scrape = r#"
apiserver_request_total{code="200",resource="resourceslices",verb="PUT"} 1
apiserver_request_total{code="201",resource="resourceslices",verb="POST"} 2
apiserver_request_total{code="409",resource="resourceslices",verb="DELETE"} 4
apiserver_request_total{code="201",resource="events",verb="POST"} 8
apiserver_request_total{code="200",resource="resourceslices",verb="LIST"} 100
apiserver_request_total{code="200",resource="leases",verb="PUT"} 1000
"#;
        assert!((written(scrape, &["resourceslices", "events"]) - 15.0).abs() < f64::EPSILON);
        assert!((written(scrape, &["leases"]) - 1000.0).abs() < f64::EPSILON);
        assert!(written(scrape, &["pods"]).abs() < f64::EPSILON);
    }
}
