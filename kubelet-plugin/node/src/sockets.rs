//! The sockets of this instance of the plugin: how they are named, and how the process came by them.

use tessera_proto::uds::BindError;
use tessera_proto::{NameError, SocketPaths, Sockets, remove_dead_instances};
use thiserror::Error;

use crate::args::Args;
use crate::keeper::{Kept, LineError, Post, Serving};

/// The sockets of this instance, ready to be served.
#[derive(Debug)]
pub struct Instance {
    /// Where they are.
    pub paths: SocketPaths,
    /// The sockets.
    pub sockets: Sockets,
    /// What this process comes to.
    pub post: Post,
    /// Tells the keeper, if there is one, that this process serves them.
    pub serving: Option<Serving>,
}

/// There are no sockets.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// They have no valid names.
    #[error(transparent)]
    Name(#[from] NameError),
    /// They cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// They do not come from a keeper.
    #[error(transparent)]
    Line(#[from] LineError),
}

impl Instance {
    /// Binds the sockets, and removes what instances left that are dead.
    pub fn bind(args: &Args) -> Result<Self, InstanceError> {
        let paths = paths(args)?;
        remove_dead_instances(
            &args.kubelet_registrar_directory_path,
            &args.kubelet_plugins_directory_path,
            args.drivers.name(),
        );
        Ok(Self {
            sockets: Sockets::bind(&paths)?,
            paths,
            post: Post::default(),
            serving: None,
        })
    }

    /// Takes the sockets from the keeper that started this process.
    pub fn take(args: &Args) -> Result<Self, InstanceError> {
        let paths = paths(args)?;
        let Kept {
            sockets,
            post,
            serving,
        } = Kept::take(&paths)?;
        Ok(Self {
            paths,
            sockets,
            post,
            serving: Some(serving),
        })
    }
}

/// With a pod's UID the sockets are this pod's own; without one they are the driver's, and there can
/// be one instance.
fn paths(args: &Args) -> Result<SocketPaths, NameError> {
    SocketPaths::new(
        &args.kubelet_registrar_directory_path,
        &args.kubelet_plugins_directory_path,
        args.drivers.name(),
        args.pod_uid.as_deref().filter(|uid| !uid.is_empty()),
    )
}
