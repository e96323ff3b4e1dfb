//! What happens to the driver's files: records damaged in every way, file systems that are full, read-only or gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::Pod;
use tessera_cluster::Node;

use super::manifests::{one_gpu_on, stubborn};
use crate::context::{COLLECT_LIMIT, Context, START_LIMIT, claim_of, uuids};
use crate::failure::{Failure, nothing, same};
use crate::gpus::DRIVER;
use crate::kubelet_log::{KubeletLog, Said};
use crate::kubernetes::{Objects, uid};
use crate::leftovers;
use crate::plugin_pod::Plugin;

/// What is done to a record, given its path and the bytes of another claim's.
type Damage = fn(&Path, &[u8]) -> io::Result<()>;

const DAMAGES: [(&str, Damage); 7] = [
    ("empty", |record, _| fs::write(record, b"")),
    ("truncated", |record, _| {
        let whole = fs::read(record)?;
        fs::write(record, &whole[..whole.len() / 2])
    }),
    ("flipped-bit", |record, _| {
        let mut bytes = fs::read(record)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(record, bytes)
    }),
    ("garbage", |record, _| fs::write(record, b"\0\xff garbage")),
    ("foreign", |record, other| fs::write(record, other)),
    // The version that writes a record writes its copy.
    ("newer", |record, _| {
        for path in [record.to_owned(), copy_of(record)] {
            let text = fs::read_to_string(&path)?;
            fs::write(
                &path,
                text.replacen("tessera-record 1 ", "tessera-record 9 ", 1),
            )?;
        }
        Ok(())
    }),
    ("directory", |record, _| {
        fs::remove_file(record)?;
        fs::create_dir(record)
    }),
];

/// How many of them leave a file that is kept.
const KEPT: u64 = 6;

fn copy_of(record: &Path) -> PathBuf {
    let name = record.file_name().unwrap_or_default();
    record.with_file_name("copies").join(name)
}

fn journal(node: &Node) -> PathBuf {
    node.run_dir().join(DRIVER).join("claims")
}

fn file_failure(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |reason| Failure::File { path, reason }
}

pub(crate) fn a_gpu_in_use_whose_record_is_damaged_is_given_to_nobody_until_its_pod_has_ended(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let before = damaged_records(context, node)?;
    let names: Vec<&str> = DAMAGES.iter().map(|(name, _)| *name).collect();
    for name in &names {
        context.apply(&stubborn(name, node, 1))?;
    }
    let pods = context.running(&names)?;
    let mut held = Vec::new();
    for name in &names {
        held.extend(uuids(&context.held(&claim_of(&pods[*name], "gpus")?)?));
    }
    let former = damage(context, node, &pods)?;

    // The one GPU that is left is handed out.
    context.apply(&one_gpu_on(node, "other"))?;
    context.running(&["other"])?;
    // The claims are gone from the API at once and their GPUs allocated anew; the processes are not gone.
    let mut delete = names.clone();
    delete.extend(["--force", "--grace-period=0"]);
    context.delete_pods(&delete)?;
    context.apply(&stubborn("next", node, names.len()))?;
    context.running(&["next"])?;
    let left = leftovers::records(node)?;
    let overlap: Vec<_> = former.iter().filter(|name| left.contains(name)).collect();
    nothing("former claims hold the GPUs of a running pod", &overlap)?;
    let mut seen = context.seen("next", "main")?;
    seen.sort();
    held.sort();
    same("the GPUs of the next pod", &seen, &held)?;
    nothing("preparations have failed", &context.failed_preparations()?)?;
    let found = damaged_records(context, node)? - before;
    if found < KEPT {
        return Err(Failure::wrong(format!(
            "only {found} damaged records were counted, and {KEPT} are kept"
        )));
    }
    Ok(())
}

/// Damages the record of each pod in the way that the pod is named after, and returns their file names.
fn damage(context: &Context<'_>, node: &Node, pods: &Objects<Pod>) -> Result<Vec<String>, Failure> {
    let claims = context.claims()?;
    let record = |pod: &str| -> Result<String, Failure> {
        let claim = claim_of(&pods[pod], "gpus")?;
        Ok(format!("{}.record", uid(&claims[&claim])))
    };
    let journal = journal(node);
    let other = journal.join(record("directory")?);
    let other = fs::read(&other).map_err(file_failure(&other))?;
    let mut files = Vec::new();
    for (name, damage) in DAMAGES {
        let file = record(name)?;
        let path = journal.join(&file);
        damage(&path, &other).map_err(file_failure(&path))?;
        files.push(file);
    }
    Ok(files)
}

fn damaged_records(context: &Context<'_>, node: &Node) -> Result<u64, Failure> {
    let plugin = Plugin::on(context.kubernetes(), node);
    plugin.metric("tessera_damaged_records_total")
}

pub(crate) fn full_read_only_and_vanished_directories_fail_a_claim_with_the_reason_and_leave_nothing(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let (full_node, stuck_node) = (context.node_with("h100")?, context.node_with("t4")?);
    let claims = format!("/run/tessera/{DRIVER}/claims");
    let full = Fault::full(context, full_node, &claims)?;
    let stuck = Fault::read_only(context, stuck_node, "/var/run/cdi")?;
    context.apply(&one_gpu_on(full_node, "full"))?;
    context.apply(&one_gpu_on(stuck_node, "stuck"))?;
    told(
        context,
        "full",
        &[&claims, "No space left on device", "free space"],
    )?;
    told(
        context,
        "stuck",
        &[
            "/var/run/cdi",
            "Read-only file system",
            "make its file system writable",
        ],
    )?;
    context.nothing_left()?;

    full.end()?;
    stuck.end()?;
    // A new pod, because the kubelet lets the former ones wait for more than a minute.
    context.delete_pods(&["full", "stuck"])?;
    context.apply(&one_gpu_on(full_node, "after-full"))?;
    context.apply(&one_gpu_on(stuck_node, "after-stuck"))?;
    let before = context.running(&["after-full", "after-stuck"])?;

    // What the driver needs is swept away under running pods.
    let state = full_node.run_dir().join(DRIVER);
    fs::remove_dir_all(&state).map_err(file_failure(&state))?;
    let sockets = stuck_node.kubelet_dir().join("plugins").join(DRIVER);
    let log = KubeletLog::of(stuck_node)?;
    fs::remove_dir_all(&sockets).map_err(file_failure(&sockets))?;
    context.apply(&one_gpu_on(full_node, "after-state"))?;
    // A pod that meets the moment between the old socket and the new one waits for more than a minute.
    log.wait(&[Said::Registered], START_LIMIT)?;
    context.apply(&one_gpu_on(stuck_node, "after-sockets"))?;
    let names = ["after-full", "after-stuck", "after-state", "after-sockets"];
    let after = context.running(&names)?;
    for name in ["after-full", "after-stuck"] {
        let ids = |pods: &Objects<Pod>| pods[name].metadata.uid.clone();
        same("the pod that ran all the time", &ids(&after), &ids(&before))?;
    }
    context.delete_pods(&names)?;
    context.nothing_left_within(COLLECT_LIMIT)
}

/// Waits until the kubelet says about this pod that its claim could not be prepared, in these words.
fn told(context: &Context<'_>, pod: &str, words: &[&str]) -> Result<(), Failure> {
    let what = format!("an event of pod {pod} with {words:?}");
    let told = context.event(context.scope(), &what, |event| {
        let message = event.message.as_deref().unwrap_or_default();
        event.involved_object.name.as_deref() == Some(pod)
            && words.iter().all(|word| message.contains(word))
    });
    told.map(drop)
}

/// A file system that does not take files, as the plugin's container sees it, until this value ends.
struct Fault {
    undo: Option<Command>,
}

impl Fault {
    /// A full tmpfs: it has one inode, which is its root directory's.
    fn full(context: &Context<'_>, node: &Node, path: &str) -> Result<Self, Failure> {
        let namespace = mounts_of_plugin(context, node)?;
        let options = ["-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", path];
        Self::make(
            &mut in_namespace("mount", &namespace, &options),
            in_namespace("umount", &namespace, &[path]),
        )
    }

    fn read_only(context: &Context<'_>, node: &Node, path: &str) -> Result<Self, Failure> {
        let namespace = mounts_of_plugin(context, node)?;
        let remount = |how| in_namespace("mount", &namespace, &["-o", how, path]);
        Self::make(&mut remount("remount,bind,ro"), remount("remount,bind,rw"))
    }

    fn make(begin: &mut Command, undo: Command) -> Result<Self, Failure> {
        run(begin)?;
        Ok(Self { undo: Some(undo) })
    }

    fn end(mut self) -> Result<(), Failure> {
        self.undo.take().map_or(Ok(()), |mut undo| run(&mut undo))
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // The plugin may be gone, and its mounts with it.
        let _ = self.undo.take().map(|mut undo| run(&mut undo));
    }
}

/// The program works on the mounts of another namespace and is itself the machine's.
fn in_namespace(program: &str, namespace: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["--no-mtab", "--namespace", namespace]);
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let line = format!("{command:?}");
    let output = command.output().map_err(|reason| Failure::Run {
        line: line.clone(),
        reason,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::Refused { line, said })
}

/// The mount namespace of the plugin's container on this node.
fn mounts_of_plugin(context: &Context<'_>, node: &Node) -> Result<String, Failure> {
    let pid = Plugin::on(context.kubernetes(), node).process()?;
    Ok(format!("/proc/{pid}/ns/mnt"))
}
