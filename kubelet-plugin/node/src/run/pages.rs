//! What the outside sees of the process: metrics, readiness and the probes of Kubernetes.

use anyhow::Context;
use tessera_proto::SocketPaths;
use tessera_shell::http::{self, Health, ListenAddress, Pages};
use tokio::sync::watch;

use super::assembly::Assembly;
use crate::hardware::HardwareWatch;
use crate::probe::Probe;
use crate::publisher::PublishState;

impl Assembly<'_> {
    /// Opens the HTTP endpoint and the gRPC health service, each where it is wanted. Nothing can be
    /// added to the registry after that.
    pub(super) async fn open_pages(
        self,
        paths: SocketPaths,
        hardware: HardwareWatch,
        published: watch::Receiver<PublishState>,
    ) -> anyhow::Result<()> {
        let Self {
            parts,
            args,
            registry,
            ..
        } = self;
        if let Some(listener) = http::listen(&args.pages.http_endpoint).await? {
            let (hardware, published) = (hardware.clone(), published.clone());
            let pages = Pages::new(registry, &args.pages.metrics_path)
                .ready_when(move || readiness(hardware.problem(), &published.borrow()));
            parts.start("HTTP endpoint", |stop| async move {
                Ok(http::serve(listener, pages, stop).await?)
            });
        }
        if let Some(address) = probe_address(args.healthcheck_port)? {
            let listener = http::listen(&address)
                .await?
                .context("an address with a port is never switched off")?;
            let probe = Probe::new(paths, hardware, published);
            parts.start("gRPC health", |stop| async move {
                Ok(probe.serve(listener, stop).await?)
            });
        }
        Ok(())
    }
}

/// Ready is a plugin whose driver answers and whose slices are published, by it or by the other
/// instance of an update.
fn readiness(problem: Option<String>, published: &PublishState) -> Health {
    match (problem, published) {
        (Some(problem), _) => Health::Failing(problem.into()),
        (None, PublishState::Published { .. } | PublishState::Standby) => Health::Ok,
        (None, PublishState::NotYet) => {
            Health::Failing("the kubelet has not registered the driver yet".into())
        }
        (None, PublishState::Failing { reason }) => Health::Failing(reason.clone().into()),
    }
}

/// Where the health service listens; a negative port switches it off, as with the reference driver.
fn probe_address(port: i32) -> anyhow::Result<Option<ListenAddress>> {
    if port < 0 {
        return Ok(None);
    }
    let port = u16::try_from(port)
        .with_context(|| format!("--healthcheck-port is {port}; use a port up to 65535"))?;
    Ok(Some(ListenAddress::Everywhere(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_health_port_is_off_when_negative_and_refused_when_it_is_none() {
        assert!(probe_address(-1).unwrap().is_none());
        assert!(probe_address(51516).unwrap().is_some());
        let refused = probe_address(65536).unwrap_err().to_string();
        assert!(refused.contains("--healthcheck-port is 65536"), "{refused}");
    }

    #[test]
    fn a_driver_that_does_not_answer_is_not_ready_whatever_is_published() {
        let failing = |health| match health {
            Health::Failing(reason) => Some(reason.to_string()),
            Health::Ok => None,
        };
        let standby = PublishState::Standby;
        assert_eq!(failing(readiness(None, &standby)), None);
        let problem = Some("hung".to_owned());
        assert_eq!(
            failing(readiness(problem, &standby)).as_deref(),
            Some("hung")
        );
        assert!(failing(readiness(None, &PublishState::NotYet)).is_some());
    }
}
