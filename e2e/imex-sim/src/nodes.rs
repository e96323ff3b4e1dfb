//! The members of a domain: one address or name a line, equal on all of them.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::Path,
};

/// The members, in the order of the file. A member's place is its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes(Vec<String>);

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// The file cannot be read.
    #[error("read the nodes file {path}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// No line is an address of this machine.
    #[error(
        "find this machine among the {0} nodes of the nodes file: none of their addresses is one of its own"
    )]
    NotAMember(usize),
}

impl Nodes {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, NodesError> {
        let text = std::fs::read_to_string(path).map_err(|source| NodesError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::parse(&text))
    }

    /// Reads the text of one.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let members = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(members.map(str::to_owned).collect())
    }

    /// The members as they are written.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// What is compared among peers: another list, or another order, is another domain.
    pub fn key(&self) -> u32 {
        crc32fast::hash(self.0.join("\n").as_bytes())
    }

    /// The own index: that of `bind`, or of the first member whose address is one of this machine.
    pub fn own_index(&self, bind: Option<&str>) -> Result<usize, NodesError> {
        let is_own = |name: &String| match bind {
            Some(bind) => name == bind,
            None => address(name, 0).is_some_and(|address| is_local(address.ip())),
        };
        self.0
            .iter()
            .position(is_own)
            .ok_or(NodesError::NotAMember(self.0.len()))
    }
}

/// The address of a member, as it resolves at this moment.
pub fn address(name: &str, port: u16) -> Option<SocketAddr> {
    (name, port).to_socket_addrs().ok()?.next()
}

/// The kernel lets a socket be bound to the machine's own addresses alone.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_by_an_address_of_its_machine() {
        let nodes = Nodes::parse("# rack 1\n203.0.113.1\n\n127.0.0.1\n203.0.113.2\n");
        assert_eq!(nodes.names().len(), 3);
        assert_eq!(nodes.own_index(None).unwrap(), 1);
        assert_eq!(nodes.own_index(Some("203.0.113.2")).unwrap(), 2);
        let stranger = Nodes::parse("203.0.113.1\n203.0.113.2\n").own_index(None);
        assert!(stranger.unwrap_err().to_string().contains("2 nodes"));
    }

    #[test]
    fn another_order_is_another_domain() {
        let key = |text| Nodes::parse(text).key();
        assert_eq!(key("a\nb\n"), key("a\n\nb"));
        assert_ne!(key("a\nb\n"), key("b\na\n"));
    }
}
