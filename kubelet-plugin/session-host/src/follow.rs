//! Reads from the API server in which clique the node is, and who else is.
//!
//! The clique is what the plugin publishes in the node's own slice (`fabric`, `cliqueId`); its members are
//! the spec of the `NVLinkClique` of that name. Both watches are of single objects, so that a change in one
//! clique wakes its own nodes and no others.
//!
//! # Guarantees
//! Nothing that is not known is taken for gone: a slice that is away, a fabric that is down, an object that
//! was deleted leave the session as it was. Only a node that tells of no fabric at all, or that a clique does
//! not list any more, or that no domain has where each has a session of its own, is in no session.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tessera_api::{NVLinkClique, NVLinkCliqueSession};
use tessera_session::decide::Wanted;
use tessera_session::roster::object_name;
use tessera_session::{Roster, Seat};
use tessera_shell::logging::chain;
use tessera_shell::resource_api::is_unserved;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The driver whose slice of the node tells of its fabric.
const DRIVER: &str = "compute-domain.nvidia.com";

/// How long to wait for an API server to serve what it does not: that comes with an upgrade of the control
/// plane, or with the chart's resource definitions.
const UNSERVED: Duration = Duration::from_mins(1);

/// Who follows.
#[derive(Clone, Debug)]
pub struct Own {
    /// The node.
    pub node: String,
    /// Where its session listens.
    pub address: IpAddr,
}

/// What the clique's object has of the own node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The object's name; none where it does not list the node.
    pub clique: Option<String>,
    /// What it says of the node's session.
    pub session: Option<NVLinkCliqueSession>,
}

/// What a slice says of the node's clique.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Clique(String),
    /// No fabric between nodes.
    None,
    /// Nothing that lasts.
    Nothing,
}

/// Follows until `stop`.
pub async fn follow(
    client: Client,
    own: Own,
    wanted: watch::Sender<Wanted>,
    stored: watch::Sender<Stored>,
    stop: CancellationToken,
) {
    let mut slices = slices(&client, &own.node);
    let mut clique: Option<String> = None;
    let mut objects: BoxStream<'static, watcher::Result<Event<NVLinkClique>>> =
        futures::stream::pending().boxed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(event) = slices.next() => match event {
                Ok(Event::Apply(slice) | Event::InitApply(slice)) => match told(&slice) {
                    Told::Clique(name) => {
                        if clique.as_ref() != Some(&name) {
                            objects = cliques(&client, &name);
                            clique = Some(name);
                        }
                    }
                    Told::None => {
                        clique = None;
                        objects = futures::stream::pending().boxed();
                        stored.send_replace(Stored::default());
                        put(&wanted, Wanted::Nobody);
                    }
                    Told::Nothing => {}
                },
                Ok(_) => {}
                Err(error) => broken_off("resourceslice", &error).await,
            },
            Some(event) = objects.next() => match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    stored.send_replace(of_own(&object, &own.node));
                    put(&wanted, wanted_of(&object, &own));
                }
                Ok(Event::Delete(_)) => {
                    stored.send_replace(Stored::default());
                }
                Ok(_) => {}
                Err(error) => broken_off("nvlinkclique", &error).await,
            },
        }
    }
}

fn put(wanted: &watch::Sender<Wanted>, new: Wanted) {
    wanted.send_if_modified(|present| {
        let changed = *present != new;
        if changed {
            if let Wanted::Invalid(why) = &new {
                warn!(error = %why, "no session can be made of the clique's members");
            }
            *present = new;
        }
        changed
    });
}

fn wanted_of(object: &NVLinkClique, own: &Own) -> Wanted {
    match Roster::of(&object.spec, &own.node, own.address) {
        Ok(Seat::Session(roster)) => Wanted::Members(roster),
        Ok(Seat::Idle { clique }) => Wanted::Idle { clique },
        Ok(Seat::None) => Wanted::Nobody,
        Err(why) => Wanted::Invalid(why),
    }
}

fn of_own(object: &NVLinkClique, node: &str) -> Stored {
    let member = object
        .spec
        .members
        .iter()
        .any(|member| member.node_name == node);
    let sessions = object.status.iter().flat_map(|status| &status.sessions);
    let mut session = sessions.filter(|session| session.node_name == node);
    Stored {
        clique: object.metadata.name.clone().filter(|_| member),
        session: session.next().cloned(),
    }
}

fn told(slice: &ResourceSlice) -> Told {
    let mut devices = slice.spec.devices.iter().flatten();
    let Some(fabric) = devices.find(|device| device.name == "fabric") else {
        return Told::Nothing;
    };
    let attribute = |name: &str| {
        let attribute = fabric.attributes.as_ref()?.get(name)?;
        attribute.string.as_deref()
    };
    let name = attribute("cliqueId").and_then(object_name);
    match (name, attribute("fabricState")) {
        (Some(name), _) => Told::Clique(name),
        (None, Some("NotSupported")) => Told::None,
        (None, _) => Told::Nothing,
    }
}

fn slices(
    client: &Client,
    node: &str,
) -> BoxStream<'static, watcher::Result<Event<ResourceSlice>>> {
    let own = format!("spec.driver={DRIVER},spec.nodeName={node}");
    let config = watcher::Config::default().fields(&own);
    watcher(Api::all(client.clone()), config)
        .default_backoff()
        .boxed()
}

fn cliques(
    client: &Client,
    name: &str,
) -> BoxStream<'static, watcher::Result<Event<NVLinkClique>>> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(Api::all(client.clone()), config)
        .default_backoff()
        .boxed()
}

async fn broken_off(kind: &'static str, error: &watcher::Error) {
    warn!(kind, error = %chain(error), "a watch broke off; it is opened again");
    let unserved = match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            is_unserved(error)
        }
        _ => false,
    };
    if unserved {
        sleep(UNSERVED).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;

    use super::*;

    fn slice(attributes: &Value) -> ResourceSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "s"},
            "spec": {"driver": DRIVER, "nodeName": "a",
                     "pool": {"name": "a", "generation": 1, "resourceSliceCount": 1},
                     "devices": [{"name": "fabric", "attributes": attributes}]},
        }))
        .unwrap()
    }

    #[test]
    fn only_a_node_that_tells_of_no_fabric_is_in_no_clique() {
        let state = |state: &str| json!({"fabricState": {"string": state}});
        for (attributes, expected) in [
            (
                json!({"fabricState": {"string": "Completed"}, "cliqueId": {"string": "C.1"}}),
                Told::Clique("c.1".to_owned()),
            ),
            (state("NotSupported"), Told::None),
            (state("InProgress"), Told::Nothing),
            (state("Failed"), Told::Nothing),
            (json!({}), Told::Nothing),
        ] {
            assert_eq!(told(&slice(&attributes)), expected, "{attributes}");
        }
        let mut empty = slice(&json!({}));
        empty.spec.devices = None;
        assert_eq!(told(&empty), Told::Nothing);
    }

    #[test]
    fn a_clique_tells_a_member_of_the_others_and_of_what_is_stored_of_it() {
        let object: NVLinkClique = serde_json::from_value(json!({
            "metadata": {"name": "c.1"},
            "spec": {"cliqueID": "c.1", "epoch": 2, "members": [
                {"nodeName": "a", "index": 0, "address": ""}, {"nodeName": "b", "index": 1, "address": "10.0.0.2"}]},
            "status": {"sessions": [{"nodeName": "b", "state": "READY"}]},
        }))
        .unwrap();
        let own = |node: &str| Own {
            node: node.to_owned(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let Wanted::Members(roster) = wanted_of(&object, &own("a")) else {
            panic!("it is a member");
        };
        assert_eq!(roster.peers().collect::<Vec<_>>(), [1]);
        assert_eq!(wanted_of(&object, &own("c")), Wanted::Nobody);
        let mut of_domains = object.clone();
        of_domains.spec.sessions_of = tessera_api::SessionsOf::Domain;
        let idle = Wanted::Idle {
            clique: "c.1".to_owned(),
        };
        assert_eq!(wanted_of(&of_domains, &own("a")), idle);
        assert_eq!(of_own(&object, "a").clique.as_deref(), Some("c.1"));
        assert_eq!(of_own(&object, "a").session, None);
        assert_eq!(of_own(&object, "b").session.unwrap().state, "READY");
        assert_eq!(of_own(&object, "c").clique, None);
    }
}
