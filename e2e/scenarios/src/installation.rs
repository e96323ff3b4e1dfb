//! How the product is installed while a scenario runs.

use k8s_openapi::api::resource::v1::{Device, ResourceSlice};

use crate::context::START_LIMIT;
use crate::failure::Failure;
use crate::gpus::DRIVER;
use crate::kubernetes::{Kubernetes, Objects, Scope};
use crate::release;

/// A choice of the chart's values. Scenarios of one stand together, so that it is changed seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installation {
    /// As the cluster's [`Ground`](crate::Ground) has it.
    Usual,
    /// GPUs can be shared by memory.
    Shares,
    /// Ten can share a GPU, and say how long a time slice is.
    Turns,
}

impl Installation {
    /// A value for each key that any of them changes, because a change keeps what it does not name.
    fn values(self) -> [String; 2] {
        let (shares, turns) = match self {
            Self::Usual => ("", false),
            Self::Shares => ("memory", false),
            Self::Turns => ("10", true),
        };
        [
            format!("consumableShares={shares}"),
            format!("featureGates.TimeSlicingSettings={turns}"),
        ]
    }

    fn put(self, kubernetes: Kubernetes<'_>) -> Result<(), Failure> {
        let values = self.values();
        release::change(kubernetes, &values)?;
        let shared = self != Self::Usual;
        offered_as(kubernetes, shared, &values.join(","))
    }
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

/// Waits until all GPUs are offered as ones that can be shared, or that cannot, after this was set.
fn offered_as(kubernetes: Kubernetes<'_>, shared: bool, values: &str) -> Result<(), Failure> {
    let what = format!("all GPUs to be offered with {values}");
    let is_shared = |device: &Device| device.allow_multiple_allocations == Some(true);
    kubernetes.wait(
        Scope::Cluster,
        &what,
        START_LIMIT,
        |slices: &Objects<ResourceSlice>| {
            let ours = slices.values().filter(|slice| slice.spec.driver == DRIVER);
            let mut devices = ours.flat_map(|slice| slice.spec.devices.iter().flatten());
            devices
                .all(|device| is_shared(device) == shared)
                .then_some(())
        },
    )
}
