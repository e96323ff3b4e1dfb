//! Runs the controller: the election, the leader's work and the HTTP endpoint, which end together.

use anyhow::Context;
use kube::Client;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tessera_shell::http::{self, Health, Pages};
use tessera_shell::metrics;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::domains;
use crate::lease::{self, End, KubeLeases, Leadership};

/// Runs until `stop`; every other end is an error, so that the pod is restarted.
pub async fn run(client: Client, args: &Args, stop: CancellationToken) -> anyhow::Result<()> {
    let (leadership, seen) = watch::channel(Leadership::Unknown);
    let domains = domains::Metrics::default();
    let listener = http::listen(&args.pages.http_endpoint).await?;
    let serving = async {
        let Some(listener) = listener else {
            stop.cancelled().await;
            return Ok(());
        };
        http::serve(listener, pages(args, &domains, seen), stop.clone()).await
    };
    let working = work(
        client.clone(),
        args,
        &domains,
        leadership.subscribe(),
        &stop,
    );
    let electing = elect(client, args, &leadership, &stop);
    tracing::info!(
        version = tessera_shell::VERSION,
        namespace = args.namespace,
        "started"
    );
    // Whichever fails ends the process: a controller that lost its lease may hold a leader's work,
    // and one without its endpoint cannot be probed.
    tokio::try_join!(
        async { serving.await.context("serve metrics and health") },
        working,
        electing
    )?;
    Ok(())
}

async fn work(
    client: Client,
    args: &Args,
    metrics: &domains::Metrics,
    leadership: watch::Receiver<Leadership>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if args.compute_domains {
        domains::run(
            client,
            &args.pod_name,
            args.domains().context("read the topology levels")?,
            metrics.clone(),
            leadership,
            stop.clone(),
        )
        .await;
    } else {
        stop.cancelled().await;
    }
    Ok(())
}

async fn elect(
    client: Client,
    args: &Args,
    leadership: &watch::Sender<Leadership>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(params) = args.election()? else {
        leadership.send_replace(Leadership::Unopposed);
        stop.cancelled().await;
        return Ok(());
    };
    let store = KubeLeases::new(client, &args.namespace, &args.leader_election_lease_name);
    match lease::run(&store, &params, leadership, stop).await {
        End::Shutdown => Ok(()),
        End::Lost(loss) => Err(loss).context("leadership lost"),
    }
}

fn pages(
    args: &Args,
    domains: &domains::Metrics,
    leadership: watch::Receiver<Leadership>,
) -> Pages {
    let mut registry = Registry::default();
    metrics::register_process(&mut registry);
    registry.register_collector(Box::new(LeaderGauge(leadership.clone())));
    if args.compute_domains {
        domains.register(&mut registry);
    }
    Pages::new(registry, &args.pages.metrics_path).ready_when(move || {
        let reached = *leadership.borrow() != Leadership::Unknown;
        Health::when(reached, "the API server has not answered yet")
    })
}

/// Asks at each scrape, because a leadership runs out without an event.
#[derive(Debug)]
struct LeaderGauge(watch::Receiver<Leadership>);

impl Collector for LeaderGauge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let leads = self.0.borrow().leads(Instant::now());
        let gauge = ConstGauge::new(i64::from(leads));
        let metric = encoder.encode_descriptor(
            "tessera_controller_leader",
            "Whether this process leads: 1 or 0",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_leader_gauge_falls_when_the_leadership_runs_out() {
        let (leadership, seen) = watch::channel(Leadership::Unknown);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(LeaderGauge(seen)));
        let scrape = || {
            let mut page = String::new();
            text::encode(&mut page, &registry).unwrap();
            page
        };
        assert!(scrape().contains("tessera_controller_leader 0\n"));
        let until = Instant::now() + Duration::from_secs(10);
        leadership.send_replace(Leadership::Leading { until });
        assert!(scrape().contains("tessera_controller_leader 1\n"));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(scrape().contains("tessera_controller_leader 0\n"));
    }
}
