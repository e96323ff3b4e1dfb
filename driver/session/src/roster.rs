//! Who is in a session, as the daemons are told of it.
//!
//! `nvidia-imex` reads the list of nodes once, when it starts, and takes its own number from it; another
//! list, or another order, is another session, and daemons whose lists differ do not talk. So the list that
//! they get is the same for every member and hardly ever changes: it has a *name* for each index that there
//! could be, taken or not. Where a name leads stands in the hosts file, which the daemon reads again when
//! it is told to (`SIGUSR1`, driver 570.158.01 and later). A member that comes, goes or gets another
//! address is a change of the hosts file alone, and ends nobody's session.
//!
//! Where each domain has a session of its own, its UID is part of every name. The lists of two domains
//! differ, so that daemons of different domains do not talk, even if an address of one has become that of
//! another; and no name of a domain leads to a node that another has.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use tessera_api::{NVLinkCliqueMember, NVLinkCliqueSpec, SessionsOf};
use thiserror::Error;

/// Members for which there is room at least, and the step by which the room grows: the trays of an NVL72
/// rack.
pub const STEP: u32 = 18;

/// The highest index: what the kind allows.
pub const HIGHEST_INDEX: u32 = 1023;

/// What every name of a member begins with.
const NAME: &str = "tessera-imex-";

/// Where the name of an index leads that nobody has: the prefix that routers discard (RFC 6666). A name
/// without a line would be asked for in DNS, again and again.
const NOWHERE: &str = "100::1";

/// Longest name of an object (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;

/// Characters of the longest IP address as text.
const LONGEST_ADDRESS: usize = 45;

/// What a clique has of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seat {
    /// It is no member.
    None,
    /// It is a member of this clique and in no session: sessions are those of domains, and no domain has it.
    Idle {
        /// The clique.
        clique: String,
    },
    /// It is in a session with these.
    Session(Roster),
}

/// The members of a session, as one of its nodes has to know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    clique: String,
    domain: Option<String>,
    epoch: i64,
    own: u32,
    own_address: IpAddr,
    room: u32,
    members: BTreeMap<u32, Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    node: String,
    address: Option<IpAddr>,
}

impl From<&NVLinkCliqueMember> for Member {
    fn from(member: &NVLinkCliqueMember) -> Self {
        Self {
            node: member.node_name.clone(),
            address: member.address.parse().ok(),
        }
    }
}

/// Why no session can be made of a clique's members.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RosterError {
    /// Two have the same index.
    #[error(
        "nodes {first} and {second} of NVLinkClique {clique} both have index {index}; delete the object, \
         and the controller makes it anew"
    )]
    Twice {
        /// The clique.
        clique: String,
        /// The index.
        index: u32,
        /// A node that has it.
        first: String,
        /// Another one.
        second: String,
    },
    /// An index is higher than any may be.
    #[error(
        "node {node} of NVLinkClique {clique} has index {index}, and {HIGHEST_INDEX} is the highest; delete the \
         object, and the controller makes it anew"
    )]
    TooHigh {
        /// The clique.
        clique: String,
        /// The index.
        index: u32,
        /// The node that has it.
        node: String,
    },
}

impl Roster {
    /// What the clique has of `node`, which listens at `own_address`.
    ///
    /// An address that is none yet, or cannot be read, leads nowhere.
    pub fn of(
        spec: &NVLinkCliqueSpec,
        node: &str,
        own_address: IpAddr,
    ) -> Result<Seat, RosterError> {
        let all = by_index(spec)?;
        let own = all.iter().find(|(_, member)| member.node_name == node);
        let Some((&own, seat)) = own else {
            return Ok(Seat::None);
        };
        let clique = spec.clique_id.clone();
        let domain = match spec.sessions_of {
            SessionsOf::Clique => None,
            SessionsOf::Domain if seat.domain.is_empty() => return Ok(Seat::Idle { clique }),
            SessionsOf::Domain => Some(seat.domain.clone()),
        };
        let room = spec.room.min(HIGHEST_INDEX + 1);
        let room = room.max(room_for(all.last_key_value().map(|(index, _)| *index)));
        let is_with = |member: &NVLinkCliqueMember| {
            domain
                .as_ref()
                .is_none_or(|domain| *domain == member.domain)
        };
        let members = all.into_iter().filter(|(_, member)| is_with(member));
        Ok(Seat::Session(Self {
            clique,
            epoch: spec.epoch,
            own,
            own_address,
            room,
            members: members.map(|(at, it)| (at, Member::from(it))).collect(),
            domain,
        }))
    }

    /// The clique.
    pub fn clique(&self) -> &str {
        &self.clique
    }

    /// UID of the domain whose session it is; none where it is that of the whole clique.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The epoch of its members.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The own index.
    pub fn own(&self) -> u32 {
        self.own
    }

    /// The list of nodes: one name a line, in the order of indices. The same for every member.
    pub fn nodes_file(&self) -> String {
        let names = (0..self.room).map(|index| self.name(index) + "\n");
        names.collect()
    }

    /// The hosts file in place of `present`: its lines, and those of the members.
    ///
    /// Lines of members all have the same length, so that a file in which only addresses change is written
    /// over in one piece, and nobody reads a half of it.
    pub fn hosts_file(&self, present: &str) -> String {
        let foreign = |line: &&str| !line.contains(NAME);
        let mut text = String::new();
        for line in present.lines().filter(foreign) {
            text.push_str(line);
            text.push('\n');
        }
        for index in 0..self.room {
            let address = self.address(index);
            let address = address.map_or_else(|| NOWHERE.to_owned(), |address| address.to_string());
            let name = self.name(index);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{address:<LONGEST_ADDRESS$} {name}");
        }
        text
    }

    /// The names of the members at these indices.
    pub fn nodes(&self, indices: impl IntoIterator<Item = u32>) -> Vec<String> {
        let members = indices
            .into_iter()
            .filter_map(|index| self.members.get(&index));
        members.map(|member| member.node.clone()).collect()
    }

    /// The indices of the other members that have an address: those with whom there is to be a connection.
    pub fn peers(&self) -> impl Iterator<Item = u32> {
        let others = self.members.iter().filter(|(index, member)| {
            // Its own line is known here, whatever the list says.
            **index != self.own && member.address.is_some()
        });
        others.map(|(index, _)| *index)
    }

    /// Whether there are any.
    pub fn has_peers(&self) -> bool {
        self.peers().next().is_some()
    }

    /// The name of an index.
    fn name(&self, index: u32) -> String {
        match &self.domain {
            None => format!("{NAME}{index:04}"),
            Some(domain) => format!("{NAME}{domain}-{index:04}"),
        }
    }

    fn address(&self, index: u32) -> Option<IpAddr> {
        if index == self.own {
            return Some(self.own_address);
        }
        self.members.get(&index)?.address
    }
}

/// All members of a clique by their index.
fn by_index(spec: &NVLinkCliqueSpec) -> Result<BTreeMap<u32, &NVLinkCliqueMember>, RosterError> {
    let mut all: BTreeMap<u32, &NVLinkCliqueMember> = BTreeMap::new();
    for member in &spec.members {
        let index = member.index;
        if index > HIGHEST_INDEX {
            return Err(RosterError::TooHigh {
                clique: spec.clique_id.clone(),
                index,
                node: member.node_name.clone(),
            });
        }
        if let Some(before) = all.insert(index, member) {
            return Err(RosterError::Twice {
                clique: spec.clique_id.clone(),
                index,
                first: before.node_name.clone(),
                second: member.node_name.clone(),
            });
        }
    }
    Ok(all)
}

/// For how many members a list has a name whose highest index this is: some beyond it, so that one that
/// comes changes no list.
pub fn room_for(highest: Option<u32>) -> u32 {
    let count = highest.map_or(1, |highest| highest.saturating_add(1));
    count.checked_next_multiple_of(STEP).unwrap_or(u32::MAX)
}

/// The name of a clique's object; none where its id is none that an object could have.
pub fn object_name(clique: &str) -> Option<String> {
    let name = clique.to_ascii_lowercase();
    let part = |part: &str| {
        let letters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        letters && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    };
    (name.len() <= LONGEST_NAME && name.split('.').all(part)).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{OWN, known_by, of_domains, roster, spec};

    #[test]
    fn every_index_has_a_name_and_a_place_whether_it_is_taken_or_not() {
        let members = [("a", 0, "10.0.0.9"), ("b", 2, "10.0.0.2"), ("c", 3, "")];
        let roster = roster(3, &members);
        let nodes = roster.nodes_file();
        assert_eq!(nodes.lines().count(), 18);
        assert_eq!(nodes.lines().nth(2), Some("tessera-imex-0002"));
        let hosts = roster.hosts_file("127.0.0.1 localhost\n10.9.9.9 tessera-imex-0007\n");
        let lines: Vec<Vec<&str>> = hosts
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["127.0.0.1", "localhost"]);
        // Its own address is the one that it has, whatever the list still says.
        assert_eq!(lines[1], ["10.0.0.1", "tessera-imex-0000"]);
        assert_eq!(lines[2], [NOWHERE, "tessera-imex-0001"]);
        assert_eq!(lines[3], ["10.0.0.2", "tessera-imex-0002"]);
        assert_eq!(lines[4], [NOWHERE, "tessera-imex-0003"]);
        assert_eq!(lines.len(), 19);
        assert_eq!(roster.peers().collect::<Vec<_>>(), [2]);
        assert_eq!(roster.nodes([2, 5]), ["b"]);
    }

    #[test]
    fn a_node_that_is_no_member_has_no_roster() {
        assert_eq!(
            Roster::of(&spec(3, &[("a", 0, "")]), "b", OWN),
            Ok(Seat::None)
        );
    }

    #[test]
    fn a_domain_has_a_session_of_its_own_nodes_under_names_of_its_own() {
        let spec = of_domains(&[
            ("a", 0, "10.0.0.1", "one"),
            ("b", 1, "10.0.0.2", "two"),
            ("c", 2, "10.0.0.3", "one"),
            ("d", 3, "10.0.0.4", ""),
        ]);
        let roster = known_by("a", &spec);
        assert_eq!(roster.domain(), Some("one"));
        assert_eq!(roster.peers().collect::<Vec<_>>(), [2]);
        assert_eq!(roster.nodes([1, 2, 3]), ["c"]);
        let hosts = roster.hosts_file("");
        for (address, led_to) in [("10.0.0.3", true), ("10.0.0.2", false), ("10.0.0.4", false)] {
            assert_eq!(hosts.contains(address), led_to, "{hosts}");
        }
        let same = known_by("c", &spec).nodes_file();
        assert_eq!(roster.nodes_file(), same);
        assert_eq!(same.lines().nth(2), Some("tessera-imex-one-0002"));
        let other = known_by("b", &spec).nodes_file();
        assert!(!other.lines().any(|name| same.contains(name)), "{other}");
        let idle = Seat::Idle {
            clique: "c.1".to_owned(),
        };
        assert_eq!(Roster::of(&spec, "d", OWN), Ok(idle));
        assert_eq!(Roster::of(&spec, "e", OWN), Ok(Seat::None));
    }

    #[test]
    fn lists_on_which_nodes_would_not_agree_are_refused() {
        let twice = Roster::of(&spec(3, &[("a", 1, ""), ("b", 1, "")]), "a", OWN);
        assert!(twice.unwrap_err().to_string().contains("a and b"));
        let high = Roster::of(&spec(3, &[("a", 1024, "")]), "a", OWN);
        assert!(high.unwrap_err().to_string().contains("1024"));
    }

    #[test]
    fn an_id_that_no_object_can_be_named_after_names_none() {
        let uuid = "8F1B0C6E-3A54-4E0C-9D0E-1D2C3B4A5F60.32766";
        assert_eq!(object_name(uuid), Some(uuid.to_ascii_lowercase()));
        for bad in ["", ".", "a.", "-a.1", "a/b", "a b", &"a".repeat(300)] {
            assert_eq!(object_name(bad), None, "{bad}");
        }
    }

    /// Members with distinct indices, some of them with an address.
    fn members() -> impl Strategy<Value = Vec<(String, u32, String)>> {
        let address = prop_oneof![
            Just(String::new()),
            (1u8..250).prop_map(|n| format!("10.0.1.{n}"))
        ];
        prop::collection::btree_map(0u32..60, address, 1..20).prop_map(|all| {
            let member = |(index, address)| (format!("n{index}"), index, address);
            all.into_iter().map(member).collect()
        })
    }

    fn of(members: &[(String, u32, String)], node: &str) -> Roster {
        known_by(node, &spec(3, members))
    }

    proptest! {
        #[test]
        fn all_members_have_the_same_list_and_each_knows_its_place(members in members()) {
            let lists: Vec<String> = members.iter().map(|(node, ..)| of(&members, node).nodes_file()).collect();
            prop_assert!(lists.windows(2).all(|two| two[0] == two[1]));
            for (node, index, _) in &members {
                prop_assert_eq!(of(&members, node).own(), *index);
            }
        }

        #[test]
        fn no_address_changes_the_list_and_no_index_moves(members in members(), at in 0usize..20) {
            let mut moved = members.clone();
            let at = at % moved.len();
            moved[at].2 = "10.0.2.1".to_owned();
            let node = &members[0].0;
            let (before, after) = (of(&members, node), of(&moved, node));
            prop_assert_eq!(before.nodes_file(), after.nodes_file());
            let (before, after) = (before.hosts_file(""), after.hosts_file(""));
            let changed = before.lines().zip(after.lines()).filter(|(one, other)| one != other);
            prop_assert!(changed.count() <= 1);
            prop_assert_eq!(before.len(), after.len());
        }

        #[test]
        fn one_that_comes_or_goes_changes_no_list_that_has_room(members in members(), gone in 0usize..20, index in 0u32..60) {
            let list = |members: &[(String, u32, String)]| {
                let spec = NVLinkCliqueSpec { room: 72, ..spec(3, members) };
                known_by(&members[0].0, &spec).nodes_file()
            };
            let before = list(&members);
            prop_assert_eq!(before.lines().count(), 72);
            let mut others = members.clone();
            if others.len() > 1 {
                others.remove(1 + gone % (others.len() - 1));
            }
            prop_assert_eq!(list(&others), before.clone());
            if others.iter().all(|(_, taken, _)| *taken != index) {
                others.push(("new".to_owned(), index, "10.0.3.1".to_owned()));
            }
            prop_assert_eq!(list(&others), before);
        }

        #[test]
        fn no_node_is_led_to_one_that_another_domain_has(
            domains in prop::collection::vec(prop_oneof![Just("one"), Just("two"), Just("")], 1..20),
        ) {
            let address = |index: usize| format!("10.0.1.{index}");
            let members: Vec<(String, u32, String, &str)> = (0..).zip(&domains)
                .map(|(index, domain)| (format!("n{index}"), index, address(index as usize), *domain))
                .collect();
            let spec = of_domains(&members);
            for (node, own, _, domain) in &members {
                let Seat::Session(roster) = Roster::of(&spec, node, OWN).unwrap() else {
                    prop_assert!(domain.is_empty());
                    continue;
                };
                let others = members.iter().filter(|(_, index, _, other)| index != own && other == domain);
                prop_assert_eq!(roster.peers().collect::<Vec<_>>(), others.map(|(_, index, ..)| *index).collect::<Vec<_>>());
                for (_, index, address, other) in &members {
                    let hosts = roster.hosts_file("");
                    let led = hosts.lines().any(|line| line.split_whitespace().next() == Some(address));
                    prop_assert_eq!(led, index != own && other == domain);
                }
            }
        }

        #[test]
        fn a_hosts_file_is_as_it_is_however_often_it_is_written(members in members(), foreign in "([a-z.0-9 ]{0,20}\n){0,4}") {
            let roster = of(&members, &members[0].0);
            let once = roster.hosts_file(&foreign);
            prop_assert_eq!(roster.hosts_file(&once), once.clone());
            prop_assert!(once.starts_with(&foreign));
        }
    }
}
