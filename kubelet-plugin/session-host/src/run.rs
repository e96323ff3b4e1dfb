//! Puts the parts together and runs them until they are told to stop.

use std::time::Duration;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tessera_session::decide::Wanted;
use tessera_session::{Report, SessionState};
use tessera_shell::client::{ApiSource, connect};
use tessera_shell::http::{self, Pages};
use tessera_shell::metrics;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::args::Args;
use crate::files::Files;
use crate::follow::{Own, Stored, follow};
use crate::metrics::Metrics;
use crate::publish::publish;
use crate::socket::Socket;
use crate::supervise::{Ports, supervise};

/// How long the last word has to reach the API server.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Runs until `stop`; every other end is an error.
///
/// At `stop` the daemon is ended first, while peers and pods can still be told so.
pub async fn run(args: &Args, stop: CancellationToken) -> anyhow::Result<()> {
    info!(
        version = tessera_shell::VERSION,
        node = args.node_name,
        address = %args.pod_ip,
        "starting"
    );
    let source = ApiSource {
        kubeconfig: args.kubeconfig.clone(),
        program: "tessera-session-host",
    };
    let client = connect(&source).await?;
    let own = Own {
        node: args.node_name.clone(),
        address: args.pod_ip,
    };
    let counted = Metrics::default();
    let mut registry = Registry::default();
    metrics::register_process(&mut registry);
    counted.register(&mut registry);
    let socket = Socket::bind(&args.session_socket)?;
    let listener = http::listen(&args.pages.http_endpoint).await?;

    let (wanted, members) = watch::channel(Wanted::Unknown);
    let (stored, there) = watch::channel(Stored::default());
    let (reports, told) = watch::channel(Report {
        state: SessionState::Unknown.to_string(),
        ..Report::default()
    });
    // What goes on until the daemon has ended.
    let after = CancellationToken::new();
    let ports = Ports {
        driver_root: args.container_driver_root.clone(),
        files: Files::new(
            &args.session_directory,
            &args.hosts_file,
            args.ports(),
            args.security(),
        )
        .with_state(&args.imex_state_directory),
        wanted: members,
        reports,
        metrics: counted.clone(),
    };
    let supervising = async {
        supervise(ports, stop.clone()).await;
        sleep(LAST_WORD).await;
        after.cancel();
        Ok(())
    };
    let following = async {
        follow(client.clone(), own.clone(), wanted, stored, after.clone()).await;
        anyhow::Ok(())
    };
    let publishing = async {
        let writing = publish(
            client.clone(),
            own.clone(),
            told.clone(),
            there,
            counted,
            after.clone(),
        );
        writing.await;
        Ok(())
    };
    let telling = async {
        socket.serve(told.clone(), after.clone()).await;
        Ok(())
    };
    let serving = async {
        let Some(listener) = listener else {
            return Ok(());
        };
        let pages = Pages::new(registry, &args.pages.metrics_path);
        http::serve(listener, pages, after.clone())
            .await
            .context("serve metrics and health")
    };
    tokio::try_join!(supervising, following, publishing, telling, serving)?;
    Ok(())
}
