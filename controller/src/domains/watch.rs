//! Watches: what happens in the cluster, as changes of what is known.
//!
//! GPU slices are not among what is watched: their number is that of all GPUs, and what matters of them
//! stands in claims and in the nodes' own slices.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use k8s_openapi::Metadata;
use k8s_openapi::api::resource::v1::{ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tessera_api::{ComputeDomain, NVLinkClique};
use tessera_domain::seen::{SeenClaim, SeenNode, SeenPod, SeenPolicy};
use tessera_domain::{Kind, Object, ObjectName, World, keys};
use tessera_shell::logging::chain;
use tessera_shell::resource_api::is_unserved;
use tokio::time::sleep;
use tracing::warn;

/// Objects of one page of a list. A page is decoded as a whole, so it is what a start costs in memory.
const PAGE: u32 = 100;

/// How long to wait for an API server to serve what it does not: that comes with an upgrade of the control plane, or
/// with the chart's resource definitions. The backoff of watches begins anew with each attempt.
const UNSERVED: Duration = Duration::from_mins(1);

/// Something that a watch tells.
#[derive(Debug)]
pub enum Change {
    /// A list begins.
    Begins(Kind),
    /// An object of a list, or one that changed.
    Is(Object),
    /// An object is gone.
    Gone(Kind, ObjectName),
    /// The list is complete.
    Ends(Kind),
}

impl Change {
    /// Makes it known.
    pub fn apply(self, world: &mut World) {
        match self {
            Self::Begins(kind) => world.begin_list(kind),
            Self::Is(object) => world.apply(object),
            Self::Gone(kind, name) => world.remove(kind, &name),
            Self::Ends(kind) => world.end_list(kind),
        }
    }
}

/// Everything that happens to what is watched. It never ends: a watch that breaks off is opened again, in
/// growing intervals.
pub fn changes(client: &Client) -> SelectAll<BoxStream<'static, Change>> {
    let all = watcher::Config::default().page_size(PAGE);
    let ours = all.clone().fields(&format!("spec.driver={}", keys::DRIVER));
    select_all([
        follow::<ComputeDomain>(client, Kind::Domain, all.clone(), Object::Domain),
        follow::<ResourceSlice>(client, Kind::Slice, ours, Object::Slice),
        follow::<SeenNode>(client, Kind::Node, all.clone(), Object::Node),
        follow::<SeenPod>(client, Kind::Pod, all.clone(), Object::Pod),
        follow::<SeenClaim>(client, Kind::Claim, all.clone(), Object::Claim),
        follow::<NVLinkClique>(client, Kind::Clique, all.clone(), Object::Clique),
        follow::<SeenPolicy>(client, Kind::Policy, all.clone(), Object::Policy),
        templates(client, all),
    ])
}

fn follow<K>(
    client: &Client,
    kind: Kind,
    config: watcher::Config,
    object: fn(Box<K>) -> Object,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()>
        + Metadata<Ty = ObjectMeta>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let metadata = |seen: &K| ObjectName::of(Metadata::metadata(seen));
    let object = move |seen: K| object(Box::new(seen));
    listen(
        watcher(Api::all(client.clone()), config),
        kind,
        metadata,
        object,
    )
}

/// Templates by their metadata alone: what claims they make is not needed.
fn templates(client: &Client, config: watcher::Config) -> BoxStream<'static, Change> {
    let api: Api<PartialObjectMeta<ResourceClaimTemplate>> = Api::all(client.clone());
    listen(
        watcher(api, config),
        Kind::Template,
        |seen| ObjectName::of(&seen.metadata),
        |seen| Object::Template(Box::new(seen.metadata)),
    )
}

fn listen<K: Send + 'static>(
    events: impl futures::Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    kind: Kind,
    name: impl Fn(&K) -> ObjectName + Send + 'static,
    object: impl Fn(K) -> Object + Send + 'static,
) -> BoxStream<'static, Change> {
    events
        .default_backoff()
        .filter_map(move |event| {
            let (change, pause) = match event {
                Ok(Event::Init) => (Some(Change::Begins(kind)), None),
                Ok(Event::InitDone) => (Some(Change::Ends(kind)), None),
                Ok(Event::InitApply(seen) | Event::Apply(seen)) => {
                    (Some(Change::Is(object(seen))), None)
                }
                Ok(Event::Delete(seen)) => (Some(Change::Gone(kind, name(&seen))), None),
                Err(error) => (None, broken_off(kind, &error)),
            };
            async move {
                if let Some(pause) = pause {
                    sleep(pause).await;
                }
                change
            }
        })
        .boxed()
}

/// Says that a watch broke off, and returns how long to wait where it would break off again at once.
fn broken_off(kind: Kind, error: &watcher::Error) -> Option<Duration> {
    let kind = kind.as_str();
    let cause = chain(error);
    if !is_of_unserved(error) {
        warn!(kind, error = %cause, "a watch broke off; it is opened again");
        return None;
    }
    warn!(
        kind, error = %cause,
        "no compute domain is served: the API server does not serve this kind in the version that is spoken here \
         (resource.k8s.io/v1, which is there since Kubernetes 1.34; resource.nvidia.com/v1beta1 and \
         tessera-dra.github.io/v1alpha1, which the chart installs)"
    );
    Some(UNSERVED)
}

fn is_of_unserved(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            is_unserved(error)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::Body;
    use tokio::time::timeout;
    use tower::{BoxError, service_fn};

    use super::*;

    /// What Kubernetes 1.33 answers of `resource.k8s.io/v1`.
    const UNKNOWN: &str = r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the server could not find the requested resource", "reason": "NotFound",
        "details": {}, "code": 404}"#;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_serve_a_kind_is_asked_for_it_once_a_minute() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let service = service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = Response::builder()
                .status(404)
                .body(Body::from(UNKNOWN.as_bytes().to_vec()));
            async move { Ok::<_, BoxError>(answer?) }
        });
        let mut changes = changes(&Client::new(service, "default"));
        let minutes = 10;
        let all = async { while changes.next().await.is_some() {} };
        timeout(UNSERVED * minutes, all).await.unwrap_err();
        // Each of eight kinds; between two attempts a watch takes its own pause as well.
        let asked = asked.load(Ordering::Relaxed);
        assert!((8 * 8..=8 * 10).contains(&asked), "{asked}");
    }
}
