//! The cluster's network: which `ip` commands make it, and in whose namespace each runs.
//!
//! Everything but the host's end of one cable lives in the namespaces of the control plane and the nodes, so it ends with
//! their processes, and neither the machine's forwarding nor its firewall is touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::names::{
    BRIDGE, CONTROL_ADDRESS, DNS_ADDRESS, HOST_ADDRESS, HOST_LINK, NodeIndex, SERVICE_ADDRESS,
    SERVICE_RANGE,
};
use crate::process::{self, RunError, run};

const LIMIT: Duration = Duration::from_secs(10);

/// One `ip` command: its arguments.
type Ip = Vec<String>;

/// In whose network a command runs, named by a process that is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    Host,
    Process(u32),
}

/// The arguments of `ip` in a line.
pub(crate) fn ip(line: &str) -> Ip {
    line.split_whitespace().map(ToOwned::to_owned).collect()
}

/// The control plane's bridge and the cable from the host to it.
pub(crate) fn of_control(control: u32) -> Vec<(Within, Ip)> {
    let inside = Within::Process(control);
    vec![
        (
            Within::Host,
            ip(&format!(
                "link add {HOST_LINK} type veth peer name uplink netns {control}"
            )),
        ),
        (inside, ip("link set lo up")),
        // Pods reach the `kubernetes` Service and that of DNS at their own addresses, so there is no need of kube-proxy.
        (
            inside,
            ip(&format!("address add {SERVICE_ADDRESS}/32 dev lo")),
        ),
        (inside, ip(&format!("address add {DNS_ADDRESS}/32 dev lo"))),
        (inside, ip(&format!("link add {BRIDGE} type bridge"))),
        (
            inside,
            ip(&format!("address add {CONTROL_ADDRESS}/24 dev {BRIDGE}")),
        ),
        (inside, ip(&format!("link set {BRIDGE} up"))),
        (inside, ip(&format!("link set uplink master {BRIDGE} up"))),
        (
            Within::Host,
            ip(&format!("address add {HOST_ADDRESS}/24 dev {HOST_LINK}")),
        ),
        (Within::Host, ip(&format!("link set {HOST_LINK} up"))),
        (
            Within::Host,
            ip(&format!("route add {SERVICE_RANGE} via {CONTROL_ADDRESS}")),
        ),
    ]
}

/// One node's cable, its address, and the way to every other node's pods.
pub(crate) fn of_node(
    node: NodeIndex,
    process: u32,
    control: u32,
    all: &[NodeIndex],
) -> Vec<(Within, Ip)> {
    let mut commands = of_node_again(node, process, control, all);
    commands.extend([
        (Within::Process(control), way_to(node)),
        (Within::Host, way_to(node)),
    ]);
    commands
}

/// The same for a node that was there before: its neighbours still know the way to its pods.
pub(crate) fn of_node_again(
    node: NodeIndex,
    process: u32,
    control: u32,
    all: &[NodeIndex],
) -> Vec<(Within, Ip)> {
    let mut commands = cable(node, process, control);
    commands.extend(ways_from(node, process, all));
    commands
}

/// Takes away what is left of the cable of a node that ended. The kernel does so by itself, but in its own time.
pub(crate) fn remove_cable(node: NodeIndex, control: u32) -> Result<(), RunError> {
    let link = node.link();
    let is_there = || {
        let table = std::fs::read_to_string(format!("/proc/{control}/net/dev"));
        let named = format!("{link}:");
        table.is_ok_and(|table| table.lines().any(|line| line.trim().starts_with(&named)))
    };
    if !is_there() {
        return Ok(());
    }
    let removed = apply(&[(Within::Process(control), ip(&format!("link delete {link}")))]);
    match removed {
        Err(error) if is_there() => Err(error),
        // Removed here, or by the kernel in this very moment.
        _ => Ok(()),
    }
}

fn cable(node: NodeIndex, process: u32, control: u32) -> Vec<(Within, Ip)> {
    let (inside, bridge) = (Within::Process(process), Within::Process(control));
    let (link, hardware) = (node.link(), node.hardware_address());
    vec![
        (
            bridge,
            ip(&format!(
                "link add {link} type veth peer name eth0 address {hardware} netns {process}"
            )),
        ),
        (bridge, ip(&format!("link set {link} master {BRIDGE} up"))),
        (inside, ip("link set lo up")),
        (
            inside,
            ip(&format!("address add {}/24 dev eth0", node.address())),
        ),
        (inside, ip("link set eth0 up")),
        (
            inside,
            ip(&format!("route add default via {CONTROL_ADDRESS}")),
        ),
    ]
}

fn ways_from(node: NodeIndex, process: u32, all: &[NodeIndex]) -> Vec<(Within, Ip)> {
    let others = all.iter().filter(|other| **other != node);
    let way = |other: &NodeIndex| (Within::Process(process), way_to(*other));
    others.map(way).collect()
}

fn way_to(node: NodeIndex) -> Ip {
    ip(&format!(
        "route add {} via {}",
        node.pod_range(),
        node.address()
    ))
}

/// Runs the commands in turn and stops at the first that fails.
pub(crate) fn apply(commands: &[(Within, Ip)]) -> Result<(), RunError> {
    commands.iter().try_for_each(|(within, arguments)| {
        let program = process::find("ip").unwrap_or_else(|| PathBuf::from("ip"));
        let mut command = match within {
            Within::Host => Command::new(program),
            Within::Process(pid) => enter(*pid, &program),
        };
        run(command.args(arguments), LIMIT).map(drop)
    })
}

/// Only the network is entered: `ip netns exec` would mount a new `/sys` without cgroups.
fn enter(pid: u32, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .arg(program);
    command
}

/// Whether the host's end of the cable is there.
pub(crate) fn host_link_exists() -> bool {
    Path::new("/sys/class/net").join(HOST_LINK).exists()
}

/// Takes the host's end of the cable away, and the other end with it.
pub(crate) fn remove_host_link() -> Result<(), RunError> {
    apply(&[(Within::Host, ip(&format!("link delete {HOST_LINK}")))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(commands: &[(Within, Ip)], within: Within) -> Vec<String> {
        commands
            .iter()
            .filter(|(w, _)| *w == within)
            .map(|(_, arguments)| arguments.join(" "))
            .collect()
    }

    #[test]
    fn on_the_host_there_is_one_link_and_routes_through_it() {
        let nodes = NodeIndex::first(2).unwrap();
        let mut commands = of_control(100);
        commands.extend(of_node(nodes[0], 200, 100, &nodes));
        assert_eq!(
            lines(&commands, Within::Host),
            [
                "link add tess-host type veth peer name uplink netns 100",
                "address add 10.200.0.2/24 dev tess-host",
                "link set tess-host up",
                "route add 10.96.0.0/16 via 10.200.0.1",
                "route add 10.244.0.0/24 via 10.200.0.10",
            ]
        );
    }

    #[test]
    fn a_node_that_reboots_gets_the_cable_that_it_had_and_its_neighbours_need_nothing() {
        let nodes = NodeIndex::first(2).unwrap();
        let first = of_node(nodes[0], 200, 100, &nodes);
        let again = of_node_again(nodes[0], 200, 100, &nodes);
        assert!(again.iter().all(|command| first.contains(command)));
        assert_eq!(lines(&again, Within::Host), [""; 0]);
        let inside = Within::Process(200);
        assert_eq!(lines(&again, inside), lines(&first, inside));
    }

    #[test]
    fn a_node_knows_the_way_to_the_pods_of_every_other_node() {
        let nodes = NodeIndex::first(3).unwrap();
        let inside = lines(&of_node(nodes[1], 201, 100, &nodes), Within::Process(201));
        assert_eq!(
            inside,
            [
                "link set lo up",
                "address add 10.200.0.11/24 dev eth0",
                "link set eth0 up",
                "route add default via 10.200.0.1",
                "route add 10.244.0.0/24 via 10.200.0.10",
                "route add 10.244.2.0/24 via 10.200.0.12",
            ]
        );
    }
}
