//! How the sessions of nodes stand, as their session hosts say it.

use std::collections::BTreeMap;

use tessera_api::{NVLinkClique, NVLinkCliqueMember, NVLinkCliqueSession, SessionsOf};
use tessera_session::report::{NO_DOMAIN, NOT_INSTALLED};

use super::session;
use crate::situation::{Names, Said};
use crate::world::World;

/// How the sessions of a clique fare, all in one.
pub(super) fn said(clique: &NVLinkClique) -> Said {
    let (mut missing, mut unready, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    let mut idle = 0_usize;
    for member in &clique.spec.members {
        let node = &member.node_name;
        let place = Place::of(clique, member);
        match place.standing() {
            Standing::NotInstalled => missing.push(node.clone()),
            Standing::Idle if place.domain == Some("") => idle += 1,
            Standing::Idle => unready.push(format!("{node} ({NO_DOMAIN})")),
            Standing::Unready(state) => unready.push(format!("{node} ({state})")),
            Standing::Ready(session) => {
                let of_one = |other: &&NVLinkCliqueMember| {
                    clique.spec.sessions_of == SessionsOf::Clique || other.domain == member.domain
                };
                let members = clique.spec.members.iter().filter(of_one);
                let lost = lost(session, members.map(|it| it.node_name.as_str()));
                if !lost.is_empty() {
                    apart.push(no_connection(node, &lost));
                }
            }
        }
    }
    let no = |reason, message| Said {
        holds: false,
        reason,
        message,
    };
    if !unready.is_empty() {
        let nodes = Names("node", &unready);
        return no(
            "SessionNotReady",
            format!("the NVLink session is not ready on {nodes}"),
        );
    }
    if !apart.is_empty() {
        let nodes = Names("node", &apart);
        return no(
            "PeerUnreachable",
            format!("sessions have lost each other: {nodes}"),
        );
    }
    if !missing.is_empty() {
        let nodes = Names("node", &missing);
        return no(
            "NotInstalled",
            format!(
                "the driver installation has no nvidia-imex on {nodes}; install it there, or set \
                 resources.computeDomains.imex.mode=hostManaged where somebody else runs it"
            ),
        );
    }
    let ready = clique.spec.members.len() - idle;
    let rest = match idle {
        0 => String::new(),
        idle => format!("; {idle} nodes have none, because no domain has them"),
    };
    Said {
        holds: true,
        reason: "SessionsReady",
        message: format!("the NVLink sessions of {ready} nodes are ready and connected{rest}"),
    }
}

/// How the session of a member stands.
enum Standing<'a> {
    /// Its driver installation has no `nvidia-imex`: what nobody here runs is not waited for.
    NotInstalled,
    /// There is none, because no domain has the node.
    Idle,
    /// Not ready, for what it says of itself.
    Unready(&'a str),
    Ready(&'a NVLinkCliqueSession),
}

/// Those of `others` to which a session has no connection.
fn lost<'a>(session: &NVLinkCliqueSession, others: impl Iterator<Item = &'a str>) -> Vec<String> {
    let unreachable = |node: &&str| session.unreachable.iter().any(|other| other == node);
    others.filter(unreachable).map(str::to_owned).collect()
}

fn no_connection(node: &str, lost: &[String]) -> String {
    format!("{node} (no connection to {})", Names("node", lost))
}

/// A member of a clique.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    /// The domain that has it, where each has a session of its own; empty where none has it.
    domain: Option<&'a str>,
    /// What its session host says.
    session: Option<&'a NVLinkCliqueSession>,
}

impl<'a> Place<'a> {
    fn of(clique: &'a NVLinkClique, member: &'a NVLinkCliqueMember) -> Self {
        Self {
            domain: match clique.spec.sessions_of {
                SessionsOf::Clique => None,
                SessionsOf::Domain => Some(&member.domain),
            },
            session: session(clique, &member.node_name),
        }
    }

    fn standing(self) -> Standing<'a> {
        let Some(session) = self.session else {
            return Standing::Unready("nothing is heard of it");
        };
        match session.state.as_str() {
            NOT_INSTALLED => Standing::NotInstalled,
            NO_DOMAIN => Standing::Idle,
            // What is said of the domain before, or of none, is not said of this one.
            _ if self.domain.is_some_and(|domain| domain != session.domain) => Standing::Idle,
            "READY" => Standing::Ready(session),
            state => Standing::Unready(state),
        }
    }
}

/// What is wrong with the session of a node, for one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The domain's own session is not ready on the node yet, or not any more and about to be again.
    Starting(String),
    /// The session is not as it should be.
    Unready(String),
}

/// A domain that is to share memory over the session of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sharer<'a> {
    /// Its UID.
    pub(crate) domain: &'a str,
    /// Whether the node was chosen for it. One that follows its pods has the nodes on which these are.
    pub(crate) chosen: bool,
}

/// What the session hosts say, by node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions<'a>(BTreeMap<&'a str, Place<'a>>);

impl<'a> Sessions<'a> {
    /// Of everything that is known.
    pub(crate) fn of(world: &'a World) -> Self {
        let mut sessions = BTreeMap::new();
        for clique in world.cliques() {
            for member in &clique.spec.members {
                sessions.insert(member.node_name.as_str(), Place::of(clique, member));
            }
        }
        Self(sessions)
    }

    /// Whether a node's session can be used, or there can be one, as far as there is to be any.
    pub(crate) fn is_ready(&self, node: &str) -> bool {
        let place = self.0.get(node);
        place.is_none_or(|place| !matches!(place.standing(), Standing::Unready(_)))
    }

    /// Where a node's session listens.
    pub(crate) fn address(&self, node: &str) -> Option<&'a str> {
        let session = self.0.get(node)?.session?;
        Some(session.address.as_str())
    }

    /// What is wrong with a node's session for a domain that is to share memory with `others`.
    pub(crate) fn wrong<'n>(
        &self,
        node: &str,
        sharer: Sharer<'_>,
        others: impl Iterator<Item = &'n str>,
    ) -> Option<Flaw> {
        let place = self.0.get(node)?;
        let starts = |state: &str| Flaw::Starting(format!("{node} ({state})"));
        if place.domain.is_some_and(|domain| domain != sharer.domain) {
            let free = place.domain == Some("");
            let state = if free { NO_DOMAIN } else { "another domain's" };
            return sharer.chosen.then(|| starts(state));
        }
        match place.standing() {
            Standing::NotInstalled => None,
            Standing::Idle => Some(starts(NO_DOMAIN)),
            Standing::Unready(state) if place.domain.is_some() => Some(starts(state)),
            Standing::Unready(state) => Some(Flaw::Unready(format!("{node} (session: {state})"))),
            Standing::Ready(session) => {
                let lost = lost(session, others);
                (!lost.is_empty()).then(|| Flaw::Unready(no_connection(node, &lost)))
            }
        }
    }
}
