//! Whoever comes to the driver's sockets beside the kubelet harms nobody.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tessera_cluster::Node;

use super::manifests::one_gpu_on;
use crate::context::{Context, claim_of, uuids};
use crate::failure::{Failure, same};
use crate::gpus::{CHANNEL_DRIVER, DRIVER};
use crate::plugin_pod::NearSocket;

/// Connections to each socket that are opened and left, far above what the plugin holds.
const CROWD: usize = 200;

/// What is said over them: nothing, no HTTP/2, and its beginning.
const SAID: [&[u8]; 3] = [b"", &[0xff; 4096], b"PRI * HTTP/2.0\r\n"];

/// The sockets of both drivers on a node, for a process of the machine.
fn sockets(node: &Node) -> Result<Vec<NearSocket>, Failure> {
    let kubelet = node.kubelet_dir();
    let mut sockets = Vec::new();
    let plugins = kubelet.join("plugins");
    for dir in [
        kubelet.join("plugins_registry"),
        plugins.join(DRIVER),
        plugins.join(CHANNEL_DRIVER),
    ] {
        let failed = |reason| Failure::File {
            path: dir.clone(),
            reason,
        };
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_socket() {
                sockets.push(NearSocket::at(&entry.path())?);
            }
        }
    }
    same("the number of the drivers' sockets", &sockets.len(), &4)?;
    Ok(sockets)
}

fn mode(socket: &Path) -> Result<u32, Failure> {
    let metadata = fs::metadata(socket).map_err(|reason| Failure::File {
        path: socket.to_owned(),
        reason,
    })?;
    Ok(metadata.permissions().mode() & 0o777)
}

fn knock(socket: &Path, said: &[u8]) -> Result<UnixStream, Failure> {
    let failed = |reason| Failure::File {
        path: socket.to_owned(),
        reason,
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    // The plugin may have hung up already, which is its right.
    let _ = stream.write_all(said);
    Ok(stream)
}

/// Comes again and again, and leaves, until told to stop.
fn disturb(sockets: &[NearSocket], stop: &AtomicBool) -> Result<(), Failure> {
    while !stop.load(Ordering::Relaxed) {
        for socket in sockets {
            for said in SAID {
                knock(&socket.path, said)?;
            }
        }
    }
    Ok(())
}

pub(crate) fn garbage_on_the_sockets_does_not_disturb_a_pod_that_starts(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let sockets = sockets(node)?;
    for NearSocket { path, .. } in &sockets {
        let what = format!("the mode of {}", path.display());
        same(&what, &mode(path)?, &0o600)?;
    }
    let mut crowd = Vec::new();
    for socket in &sockets {
        for at in 0..CROWD {
            crowd.push(knock(&socket.path, SAID[at % SAID.len()])?);
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let disturbing = scope.spawn(|| disturb(&sockets, &stop));
        let starts = starts(context, node);
        stop.store(true, Ordering::Relaxed);
        let disturbed = disturbing
            .join()
            .map_err(|_| Failure::wrong("the thread that disturbs ended by panic"))?;
        starts.and(disturbed)
    })?;
    drop(crowd);
    Ok(())
}

fn starts(context: &Context<'_>, node: &Node) -> Result<(), Failure> {
    context.apply(&one_gpu_on(node, "pod"))?;
    let pods = context.running(&["pod"])?;
    let held = uuids(&context.held(&claim_of(&pods["pod"], "gpu")?)?);
    same("the GPUs in the pod", &context.seen("pod", "main")?, &held)
}
