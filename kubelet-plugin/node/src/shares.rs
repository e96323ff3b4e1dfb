//! Finds out whether claims can share devices on this cluster.
//!
//! Whether the server keeps what sharing is made of, the publisher sees. Whether the scheduler counts it right is
//! told by the release alone (Kubernetes #139034). The server is asked once: an offer that changed
//! between shared and not while claims hold shares would be counted wrong by every scheduler, so after an upgrade
//! of the control plane it is the next start of the plugin that notices.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::Client;
use tessera_resource_api::{COUNTS_SHARES, Release, ReleaseError};
use tessera_sharing::ConsumableShares;
use tessera_shell::logging::chain;
use tracing::{info, warn};

use crate::deadline::Deadline;

/// Bound of one question.
const QUESTION: Duration = Duration::from_secs(5);

/// Time between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// How devices are offered to be shared, once that is known.
#[derive(Clone, Debug)]
pub struct Shares {
    wanted: ConsumableShares,
    known: Arc<OnceLock<ConsumableShares>>,
}

impl Shares {
    /// What somebody wants. That nobody shares needs no question.
    pub fn wanted(wanted: ConsumableShares) -> Self {
        let known = OnceLock::new();
        if !wanted.is_on() {
            let _ = known.set(wanted);
        }
        Self {
            wanted,
            known: Arc::new(known),
        }
    }

    /// How devices are shared. `None`: it is not known yet, and nothing is to be offered.
    pub fn known(&self) -> Option<ConsumableShares> {
        self.known.get().copied()
    }

    /// Asks the server until it has answered.
    pub async fn find_out(&self, client: &Client) {
        while self.known().is_none() {
            match Deadline::after(QUESTION)
                .run(client.apiserver_version())
                .await
            {
                Ok(Ok(version)) => {
                    let shares = self.decide(version.git_version.parse());
                    let _ = self.known.set(shares);
                    return;
                }
                Ok(Err(error)) => {
                    warn!(error = %chain(&error), "the API server does not tell its release");
                }
                Err(_passed) => warn!("the API server does not answer"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What a server of this release can have.
    fn decide(&self, release: Result<Release, ReleaseError>) -> ConsumableShares {
        let wanted = self.wanted;
        match release {
            Ok(release) if release.counts_shares() => {
                info!(shares = %wanted, %release, "claims can share devices");
                wanted
            }
            Ok(release) => {
                warn!(
                    shares = %wanted,
                    %release,
                    "devices are not offered to be shared: before {COUNTS_SHARES} the scheduler can give \
                     them away beside claims that hold shares (Kubernetes #139034)"
                );
                ConsumableShares::Disabled
            }
            Err(error) => {
                warn!(
                    shares = %wanted,
                    %error,
                    "devices are not offered to be shared: it is not known whether the scheduler counts \
                     shares right"
                );
                ConsumableShares::Disabled
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::{Request, Response};
    use kube::client::Body;
    use tower::{BoxError, service_fn};

    use super::*;

    /// A server of this release that refuses the first question.
    fn server(release: &'static str) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let service = service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/version");
            let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if first {
                    return Err(BoxError::from("injected"));
                }
                let info = serde_json::json!({
                    "major": "1", "minor": "36", "gitVersion": release, "gitCommit": "",
                    "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
                });
                Ok(Response::new(Body::from(info.to_string().into_bytes())))
            }
        });
        (Client::new(service, "default"), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn devices_are_shared_where_the_scheduler_counts_shares_right() {
        for (release, expected) in [
            ("v1.36.3", ConsumableShares::Memory),
            ("v1.36.1", ConsumableShares::Disabled),
            ("v1.35.2", ConsumableShares::Disabled),
            ("unknown", ConsumableShares::Disabled),
        ] {
            let (client, asked) = server(release);
            let shares = Shares::wanted(ConsumableShares::Memory);
            assert_eq!(shares.known(), None);
            shares.find_out(&client).await;
            assert_eq!(shares.known(), Some(expected), "{release}");
            assert_eq!(asked.load(Ordering::Relaxed), 2);
        }
    }

    #[tokio::test]
    async fn where_nobody_shares_nobody_is_asked() {
        let (client, asked) = server("v1.36.3");
        let shares = Shares::wanted(ConsumableShares::Disabled);
        assert_eq!(shares.known(), Some(ConsumableShares::Disabled));
        shares.find_out(&client).await;
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }
}
