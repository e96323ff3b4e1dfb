//! The record, the mount points, the certificates and the kubeconfigs of a new cluster.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::super::record::{NodeRecord, Record};
use super::super::{Cluster, ClusterError, Options};
use super::ADMIN;
use crate::names::NodeIndex;
use crate::node::MOUNT_POINTS;
use crate::paths::StateDir;
use crate::pki::{Authority, Identity, Subject, token_keys};
use crate::{control_plane, kubeconfig};

/// Writes the record, then makes the mount points that it names.
pub(super) fn record(
    cluster: &Cluster,
    options: &Options,
    nodes: &[NodeIndex],
) -> Result<(), ClusterError> {
    let failed = |path: PathBuf| move |source| ClusterError::Write { path, source };
    let made: Vec<_> = MOUNT_POINTS
        .map(PathBuf::from)
        .into_iter()
        .filter(|at| !at.exists())
        .collect();
    let of = |index: &NodeIndex| NodeRecord {
        index: *index,
        profile: options.drivers.of(index.number()).map(ToOwned::to_owned),
        kubelet: options.kubelet_of(index.number()),
    };
    let dir = &cluster.dir;
    let record = Record {
        id: cluster.id.clone(),
        kubernetes: cluster.kubernetes,
        kept: false,
        nodes: nodes.iter().map(of).collect(),
        made,
    };
    record.write(dir).map_err(failed(dir.record()))?;
    record
        .made
        .iter()
        .try_for_each(|at| fs::create_dir_all(at).map_err(failed(at.clone())))
}

/// Makes the authority and everybody's certificate, and the kubeconfigs of those who call the API server.
pub(super) fn certificates(dir: &StateDir, nodes: &[NodeIndex]) -> Result<(), ClusterError> {
    let authority = Authority::new()?;
    let ca = authority.identity();
    identity(dir, "ca", &ca)?;
    let (private, public) = token_keys()?;
    secret(&dir.pki("tokens.key"), &private)?;
    secret(&dir.pki("tokens.pub"), &public)?;
    let server = Subject {
        user: "kube-apiserver",
        group: None,
        serves_at: control_plane::serves_at(),
    };
    identity(dir, "apiserver", &authority.sign(&server)?)?;
    let masters = Some("system:masters");
    let client = Subject {
        user: "kube-apiserver-kubelet-client",
        group: masters,
        serves_at: vec![],
    };
    identity(dir, "apiserver-client", &authority.sign(&client)?)?;
    for (file, user, group) in [
        (ADMIN, "admin", masters),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        (control_plane::DNS, control_plane::DNS, None),
    ] {
        let signed = authority.sign(&Subject {
            user,
            group,
            serves_at: vec![],
        })?;
        config(dir, file, &ca, &signed)?;
    }
    for index in nodes {
        let name = index.name();
        let user = format!("system:node:{name}");
        let serves_at = vec![name.clone(), index.address().to_string()];
        let signed = authority.sign(&Subject {
            user: &user,
            group: Some("system:nodes"),
            serves_at,
        })?;
        identity(dir, &name, &signed)?;
        config(dir, &name, &ca, &signed)?;
    }
    Ok(())
}

fn config(dir: &StateDir, name: &str, ca: &Identity, user: &Identity) -> Result<(), ClusterError> {
    let text = kubeconfig::render(&control_plane::server(), &ca.certificate_pem, name, user);
    secret(&dir.kubeconfig(name), &text)
}

fn identity(dir: &StateDir, name: &str, identity: &Identity) -> Result<(), ClusterError> {
    secret(&dir.pki(&format!("{name}.crt")), &identity.certificate_pem)?;
    secret(&dir.pki(&format!("{name}.key")), &identity.key_pem)
}

fn secret(path: &Path, text: &str) -> Result<(), ClusterError> {
    let write = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|source| ClusterError::Write {
        path: path.to_owned(),
        source,
    })
}
