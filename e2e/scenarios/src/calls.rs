//! The kubelet's calls at the plugin's socket, made by a test: for what a kubelet does not ask at a moment of our choice.

use tessera_cluster::Node;
use tessera_proto::dra::v1::dra_plugin_client::DraPluginClient;
use tessera_proto::dra::v1::{Claim, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest};
use tessera_proto::uds::SocketPath;
use tessera_proto::{CALL_LIMIT, client};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::kubernetes::Kubernetes;
use crate::plugin_pod::{NearSocket, Plugin};

/// A connection to the plugin's socket on a node.
pub(crate) struct Calls {
    runtime: Runtime,
    client: DraPluginClient<Channel>,
    // A connection that breaks is made anew through it.
    _socket: NearSocket,
}

impl Calls {
    /// Connects.
    pub(crate) fn to(kubernetes: Kubernetes<'_>, node: &Node) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::wrong(format!(
                "{what} the plugin's socket on {}: {error}",
                node.name()
            ))
        };
        let socket = Plugin::on(kubernetes, node).dra_socket()?;
        let path = SocketPath::new(&socket.path).map_err(|error| failed("name", &error))?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed("start a runtime for", &error))?;
        let channel = runtime
            .block_on(client::connect(&path, CALL_LIMIT))
            .map_err(|error| failed("connect to", &error))?;
        let client = DraPluginClient::new(channel);
        Ok(Self {
            runtime,
            client,
            _socket: socket,
        })
    }

    /// Has the claim prepared, and returns its devices, or why it was not.
    pub(crate) fn prepare(
        &mut self,
        claim: &Claim,
    ) -> Result<Result<Vec<String>, String>, Failure> {
        let claims = vec![claim.clone()];
        let call = self
            .client
            .node_prepare_resources(NodePrepareResourcesRequest { claims });
        let answer = self.runtime.block_on(call).map_err(|s| broken(&s))?;
        let answered = answer.into_inner().claims.remove(&claim.uid);
        let answered = answered.ok_or_else(|| unanswered(claim))?;
        Ok(if answered.error.is_empty() {
            let devices = answered.devices.into_iter();
            Ok(devices.map(|device| device.device_name).collect())
        } else {
            Err(answered.error)
        })
    }

    /// Has the claim unprepared.
    pub(crate) fn unprepare(&mut self, claim: &Claim) -> Result<(), Failure> {
        let claims = vec![claim.clone()];
        let call = self
            .client
            .node_unprepare_resources(NodeUnprepareResourcesRequest { claims });
        let answer = self.runtime.block_on(call).map_err(|s| broken(&s))?;
        let answered = answer.into_inner().claims.remove(&claim.uid);
        match answered.ok_or_else(|| unanswered(claim))?.error {
            none if none.is_empty() => Ok(()),
            error => Err(Failure::wrong(format!("unprepare {}: {error}", claim.name))),
        }
    }
}

fn broken(status: &tonic::Status) -> Failure {
    Failure::wrong(format!("a call of the plugin failed as a whole: {status}"))
}

fn unanswered(claim: &Claim) -> Failure {
    Failure::wrong(format!(
        "the plugin did not answer for claim {}",
        claim.name
    ))
}
