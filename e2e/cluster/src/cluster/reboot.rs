//! Reboots a node: everything that runs on it ends at once, as when the power fails, and its first process starts anew.
//!
//! What lies on the node's disk stays: images, the kubelet's directory, the addresses of the network plugins. What lies in
//! memory is gone: `/run` with the container runtime's state, CDI specs and the driver's journal, every mount, every
//! connection; and so are MIG instances, which are in the GPUs. The kernel is the machine's and does not restart; the boot
//! id that the kubelet reads is a new one, while containers, whose `/proc` is their own, go on seeing the machine's.

use std::fs;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Cluster, ClusterError, firsts, processes};
use crate::cgroup::Hierarchies;
use crate::driver;
use crate::network;
use crate::node::write_boot_id;
use crate::supervisor::{KEEP, Plan};

/// How long the kernel gets to end what is killed.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How long the container runtime and the kubelet may take to be started.
const START_LIMIT: Duration = Duration::from_secs(30);

impl Cluster {
    /// Reboots a node and returns when its kubelet was started. The node is not ready then.
    pub fn reboot(&self, name: &str) -> Result<(), ClusterError> {
        let node = self.node(name)?;
        let failed = |reason: &str| ClusterError::Reboot {
            node: name.to_owned(),
            reason: reason.to_owned(),
        };
        let wrong = |what: &str, error: &dyn std::fmt::Display| failed(&format!("{what}: {error}"));
        let first = node.pid();
        let init = fs::read_link(format!("/proc/{first}/exe"))
            .map_err(|error| wrong("find its first process", &error))?;
        processes::send(&[first], Signal::KILL);
        let deadline = Instant::now() + END_LIMIT;
        processes::until(deadline, || firsts::pid(&self.dir, name).is_none())
            .map_err(|_late| failed("its processes live on after SIGKILL"))?;

        let hierarchies = Hierarchies::of_machine();
        hierarchies.remove(&node.index().cgroup(), deadline)?;
        hierarchies.make(&node.index().cgroup())?;
        write_boot_id(&self.dir.of(name)).map_err(|error| wrong("give it a boot id", &error))?;
        driver::reboot(&self.dir.driver_root(name))
            .map_err(|error| wrong("give its GPUs a new boot", &error))?;
        match fs::remove_file(self.dir.status(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(wrong("forget how its parts were", &error));
            }
            _ => {}
        }
        self.start_again(name, &init)?;
        let deadline = Instant::now() + START_LIMIT;
        processes::until(deadline, || node.starts("kubelet") > 0)
            .map_err(|_late| failed("its kubelet did not start in time; see its logs"))
    }

    fn start_again(&self, name: &str, init: &std::path::Path) -> Result<(), ClusterError> {
        let node = self.node(name)?;
        let control = self.control_plane()?;
        let plan = Plan::read(&self.dir.plan(name)).map_err(|error| ClusterError::Launch {
            owner: name.to_owned(),
            source: io::Error::other(error),
        })?;
        let mut started = firsts::launch(&self.dir, init, name, &plan)?;
        node.began_anew(started.pid);
        let all: Vec<_> = self.nodes().iter().map(super::Node::index).collect();
        let commands = network::of_node_again(node.index(), started.pid, control, &all);
        let connected = network::remove_cable(node.index(), control);
        connected
            .and_then(|()| network::apply(&commands))
            .map_err(|source| ClusterError::Network {
                owner: name.to_owned(),
                source,
            })?;
        firsts::go(&mut started, name)?;
        if self.turn.is_none() {
            writeln!(started.lifeline, "{KEEP}").map_err(ClusterError::Keep)?;
        }
        self.lifelines().insert(name.to_owned(), started.lifeline);
        Ok(())
    }
}
