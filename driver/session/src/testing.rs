//! Cliques and their rosters for the tests of whoever handles them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own values fail by panic, as the test does"
)]

use std::net::{IpAddr, Ipv4Addr};

use tessera_api::{NVLinkCliqueMember, NVLinkCliqueSpec, SessionsOf};

use crate::roster::{Roster, Seat};

/// Where the session of the node listens whose roster it is.
pub const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// A clique `c.1` of these members: node, index and address.
pub fn spec<S: AsRef<str>>(epoch: i64, members: &[(S, u32, S)]) -> NVLinkCliqueSpec {
    let member = |(node, index, address): &(S, u32, S)| NVLinkCliqueMember {
        node_name: node.as_ref().to_owned(),
        index: *index,
        address: address.as_ref().to_owned(),
        domain: String::new(),
    };
    NVLinkCliqueSpec {
        clique_id: "c.1".to_owned(),
        epoch,
        room: 0,
        sessions_of: SessionsOf::Clique,
        members: members.iter().map(member).collect(),
    }
}

/// A clique `c.1` in which each domain has a session of its own: node, index, address and domain of each member.
pub fn of_domains<S: AsRef<str>, D: AsRef<str>>(members: &[(S, u32, S, D)]) -> NVLinkCliqueSpec {
    let places: Vec<(&str, u32, &str)> = members
        .iter()
        .map(|(node, index, address, _)| (node.as_ref(), *index, address.as_ref()))
        .collect();
    let mut spec = spec(1, &places);
    spec.sessions_of = SessionsOf::Domain;
    for (member, (.., domain)) in spec.members.iter_mut().zip(members) {
        domain.as_ref().clone_into(&mut member.domain);
    }
    spec
}

/// That clique as its first member knows it.
pub fn roster<S: AsRef<str>>(epoch: i64, members: &[(S, u32, S)]) -> Roster {
    known_by(members[0].0.as_ref(), &spec(epoch, members))
}

/// A clique as this member knows it.
pub fn known_by(node: &str, spec: &NVLinkCliqueSpec) -> Roster {
    match Roster::of(spec, node, OWN).unwrap() {
        Seat::Session(roster) => roster,
        other => panic!("{node} is in no session: {other:?}"),
    }
}
