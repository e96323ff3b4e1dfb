//! Takes the way between one pod and the API server away: packets are dropped without a word, as by a firewall, a broken
//! switch, or a load balancer that forgot a connection.
//!
//! Policy routes of the pod's node do it, so nothing is needed beyond `ip`, and every other way of the pod (the kubelet's
//! probes among them) stays as it is.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::names::SERVICE_ADDRESS;
use crate::network::{self, Within};
use crate::process::RunError;

/// The port of the `kubernetes` Service.
const PORT: u16 = 443;

/// The kernel's number for an established connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// The kernel's own rules begin at 0 and at 32766; every rule of ours has a number of its own in between.
static NEXT_RULE: AtomicU32 = AtomicU32::new(1000);

/// What of a pod's way to the API server is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Everything, both ways: new connections find nobody, open ones hang.
    Everything,
    /// The connections that are open now: they hang for good, while new ones work.
    OpenConnections,
}

/// A pod whose way to the API server is cut as long as this value lives.
#[derive(Debug)]
pub struct CutOff {
    node: u32,
    rules: Vec<u32>,
}

impl CutOff {
    /// Cuts the way of the pod at `address`, on the node whose first process is `node`. `pod` is a process in the pod.
    pub(super) fn make(node: u32, address: Ipv4Addr, pod: u32, cut: Cut) -> Result<Self, RunError> {
        let mut made = Self {
            node,
            rules: Vec::new(),
        };
        let selectors = match cut {
            Cut::Everything => everything(address),
            Cut::OpenConnections => {
                let table = fs::read_to_string(format!("/proc/{pod}/net/tcp")).unwrap_or_default();
                open_ports(&table, SERVICE_ADDRESS, PORT)
                    .into_iter()
                    .flat_map(|port| connection(address, port))
                    .collect()
            }
        };
        for selector in selectors {
            let number = NEXT_RULE.fetch_add(1, Ordering::Relaxed);
            let line = format!("rule add pref {number} {selector} blackhole");
            network::apply(&[(Within::Process(node), network::ip(&line))])?;
            made.rules.push(number);
        }
        Ok(made)
    }

    /// Whether nothing is cut, because there was no open connection.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        for number in &self.rules {
            let line = format!("rule del pref {number}");
            // The node may be gone, and its rules with it.
            let _ = network::apply(&[(Within::Process(self.node), network::ip(&line))]);
        }
    }
}

fn everything(pod: Ipv4Addr) -> Vec<String> {
    vec![
        format!("from {pod} to {SERVICE_ADDRESS}"),
        format!("from {SERVICE_ADDRESS} to {pod}"),
    ]
}

fn connection(pod: Ipv4Addr, port: u16) -> [String; 2] {
    [
        format!("from {pod} to {SERVICE_ADDRESS} ipproto tcp sport {port} dport {PORT}"),
        format!("from {SERVICE_ADDRESS} to {pod} ipproto tcp sport {PORT} dport {port}"),
    ]
}

/// The local ports of the established connections to this address in a table of `/proc/net/tcp`.
fn open_ports(table: &str, to: Ipv4Addr, port: u16) -> Vec<u16> {
    // The kernel writes the address as the number that it has in memory.
    let remote = format!("{:08X}:{port:04X}", u32::from_ne_bytes(to.octets()));
    let local_port = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, peer, state) = (words.next()?, words.next()?, words.next()?);
        let is_it = peer == remote && state == ESTABLISHED;
        is_it.then(|| u16::from_str_radix(local.split_once(':')?.1, 16).ok())?
    };
    table.lines().filter_map(local_port).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_ports_of_open_connections_are_found_in_the_kernels_table() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        let mut open = TcpStream::connect(server).unwrap();
        open.write_all(b"x").unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        let ports = open_ports(&table, Ipv4Addr::LOCALHOST, server.port());
        assert_eq!(ports, [open.local_addr().unwrap().port()]);
        assert!(open_ports(&table, SERVICE_ADDRESS, server.port()).is_empty());
    }

    #[test]
    fn a_cut_concerns_one_pod_and_the_api_server_both_ways() {
        let pod = Ipv4Addr::new(10, 244, 0, 7);
        assert_eq!(
            everything(pod),
            [
                "from 10.244.0.7 to 10.96.0.1",
                "from 10.96.0.1 to 10.244.0.7"
            ]
        );
        assert_eq!(
            connection(pod, 4242)[0],
            "from 10.244.0.7 to 10.96.0.1 ipproto tcp sport 4242 dport 443"
        );
    }
}
