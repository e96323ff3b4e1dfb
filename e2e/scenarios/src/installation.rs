//! How the product is installed while a scenario runs.

use k8s_openapi::api::resource::v1::{Device, ResourceSlice};

use crate::context::START_LIMIT;
use crate::failure::Failure;
use crate::gpus::DRIVER;
use crate::groups::sessions::HOST_SOCKET;
use crate::kubernetes::{Kubernetes, Objects, Scope};
use crate::release;

/// A choice of the chart's values. Scenarios of one stand together, so that it is changed seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installation {
    /// As the cluster's [`Ground`](crate::Ground) has it.
    Usual,
    /// GPUs are cut into MIG devices when claims need it.
    Parts,
    /// GPUs can be shared by memory, and claims say how their shares fare.
    Shares,
    /// Both.
    Views,
    /// Ten can share a GPU, and say how long a time slice is.
    Turns,
    /// Nodes run nvidia-imex themselves.
    HostImex,
    /// Each domain has an NVLink session of its own.
    OwnSessions,
}

impl Installation {
    /// A value for each key that any of them changes, because a change keeps what it does not name.
    fn values(self) -> [String; 6] {
        let (shares, turns) = match self {
            Self::Usual | Self::Parts | Self::HostImex | Self::OwnSessions => ("", false),
            Self::Shares | Self::Views => ("memory", false),
            Self::Turns => ("10", true),
        };
        let parts = self.has_parts();
        let imex = "resources.computeDomains.imex";
        let mode = match self {
            Self::HostImex => "hostManaged",
            Self::OwnSessions => "domain",
            _ => "clique",
        };
        [
            format!("{imex}.mode={mode}"),
            format!("{imex}.hostSocketPath={HOST_SOCKET}"),
            format!("consumableShares={shares}"),
            format!("shareStatus.enabled={}", shares == "memory"),
            format!("featureGates.TimeSlicingSettings={turns}"),
            format!("featureGates.DynamicMIG={parts}"),
        ]
    }

    fn has_parts(self) -> bool {
        matches!(self, Self::Parts | Self::Views)
    }

    fn has_shares(self) -> bool {
        matches!(self, Self::Shares | Self::Views | Self::Turns)
    }

    fn put(self, kubernetes: Kubernetes<'_>) -> Result<(), Failure> {
        let values = self.values();
        release::change(kubernetes, &values)?;
        self.await_offer(kubernetes, &values.join(","))
    }

    /// Waits until all GPUs are offered as ones that can be shared and cut, or that cannot, after this was set.
    fn await_offer(self, kubernetes: Kubernetes<'_>, values: &str) -> Result<(), Failure> {
        let what = format!("all GPUs to be offered with {values}");
        let is_so = |slices: &Objects<ResourceSlice>| {
            let ours = slices.values().filter(|slice| slice.spec.driver == DRIVER);
            let devices: Vec<&Device> = ours
                .flat_map(|slice| slice.spec.devices.iter().flatten())
                .collect();
            // A MIG device that is made for its claim is that claim's alone.
            let (parts, whole): (Vec<_>, Vec<_>) =
                devices.into_iter().partition(|device| is_part(device));
            let is_shared = |device: &&Device| device.allow_multiple_allocations == Some(true);
            let shared = whole
                .iter()
                .all(|device| is_shared(device) == self.has_shares());
            (shared && parts.is_empty() != self.has_parts()).then_some(())
        };
        kubernetes.wait(Scope::Cluster, &what, START_LIMIT, is_so)
    }
}

fn is_part(device: &Device) -> bool {
    let attributes = device.attributes.as_ref();
    let kind = attributes.and_then(|all| all.get("type")?.string.as_deref());
    kind == Some("mig")
}

/// What is installed on a cluster at the moment.
#[derive(Debug)]
pub struct Installed {
    /// `None`: a change of it has failed.
    now: Option<Installation>,
}

impl Installed {
    /// What a new cluster is given.
    pub fn first() -> Self {
        Self {
            now: Some(Installation::Usual),
        }
    }

    /// Changes it, if something else is wanted.
    pub(crate) fn make(
        &mut self,
        wanted: Installation,
        kubernetes: Kubernetes<'_>,
    ) -> Result<(), Failure> {
        if self.now != Some(wanted) {
            self.now = None;
            wanted.put(kubernetes)?;
            self.now = Some(wanted);
        }
        Ok(())
    }
}
