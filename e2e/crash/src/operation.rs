//! What the plugin does while it is killed, and what must come of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::claims::{CLAIMS, NODE, SLICES, object};
use crate::failure::Failure;
use crate::node::Node;

/// GPUs of the node.
const GPUS: usize = 8;

/// Something that the plugin does, and in which it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It starts, registers, puts its slices right, and puts them back when they are wiped.
    Publish,
    /// It prepares three claims at once on different GPUs and then refuses one whose GPU is held.
    Prepare,
    /// It prepares a claim whose GPU is held by one that is being let go, and unprepares that one meanwhile.
    Wait,
    /// It unprepares three claims at once, while a fourth stays.
    Unprepare,
    /// It starts on a node where specs and records are missing or altered and a claim is gone.
    Reconcile,
}

/// How things are when nothing is left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Every file of the node: journal, CDI specs, locks, sockets, hook.
    pub files: BTreeMap<String, String>,
    /// The slices on the API server.
    pub slices: Vec<Value>,
    /// What the kubelet was answered, by claim.
    pub answers: BTreeMap<String, String>,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Publish,
        Self::Prepare,
        Self::Wait,
        Self::Unprepare,
        Self::Reconcile,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Prepare => "prepare",
            Self::Wait => "wait",
            Self::Unprepare => "unprepare",
            Self::Reconcile => "reconcile",
        }
    }

    /// What must come of it wherever the plugin dies.
    pub fn guarantee(self) -> &'static str {
        match self {
            Self::Publish => {
                "the slices are right, and the node's directories are clean at the end"
            }
            Self::Prepare => "each claim gets its devices, and none a GPU that another one holds",
            Self::Wait => "the next claim gets the GPU of the former one, and never beside it",
            Self::Unprepare => "nothing is left of what was unprepared, and the rest is untouched",
            Self::Reconcile => "what was lost is made anew, and what is gone is taken back",
        }
    }

    /// Whether the plugin looks for GPUs in it.
    pub fn asks_nvml(self) -> bool {
        matches!(self, Self::Publish | Self::Reconcile)
    }

    /// Does it on a fresh node and tells the end; then unprepares everything, ends the plugin and looks at what is left.
    pub async fn run(self, node: &mut Node<'_>) -> Result<End, Failure> {
        let answers = match self {
            Self::Publish => publish(node).await,
            Self::Prepare => prepare(node).await,
            Self::Wait => wait(node).await,
            Self::Unprepare => unprepare(node).await,
            Self::Reconcile => reconcile(node).await,
        }?;
        node.attend().await?;
        node.until("publish", || is_published(node)).await?;
        node.check()?;
        let mut files = node.files()?;
        // What is kept for people of damaged records is all or nothing, as the moment of death allows.
        files.retain(|path, _| !path.contains("/damaged/"));
        let end = End {
            files,
            slices: slices(node),
            answers,
        };
        leave(node).await?;
        match node.api.unserved() {
            Some(request) => Err(Failure::Unserved(request)),
            None => Ok(end),
        }
    }
}

async fn publish(node: &Node<'_>) -> Result<BTreeMap<String, String>, Failure> {
    node.until("publish", || is_published(node)).await?;
    node.terminate().await?;
    let mut leftover = node.api.list(SLICES).remove(0);
    let mut altered = leftover.clone();
    altered["spec"]["devices"] = json!([]);
    node.api.put(SLICES, altered);
    leftover["metadata"] = json!({"name": "leftover"});
    node.api.put(SLICES, leftover);
    node.start_doomed(true).await?;
    node.until("put the slices right", || is_published(node))
        .await?;
    for slice in node.api.list(SLICES) {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        node.api.delete(SLICES, name);
    }
    node.until("put the slices back", || is_published(node))
        .await?;
    Ok(BTreeMap::new())
}

async fn prepare(node: &Node<'_>) -> Result<BTreeMap<String, String>, Failure> {
    for (name, gpus) in [
        ("a", &[0, 1][..]),
        ("b", &[2]),
        ("c", &[3]),
        ("held", &[1, 4]),
    ] {
        node.api.put(CLAIMS, object(name, gpus));
    }
    begin(node, &[]).await?;
    let (mut answers, others) = tokio::try_join!(node.prepare(&["a", "b"]), node.prepare(&["c"]))?;
    answers.extend(others);
    node.check()?;
    match node.try_prepare(&["held"]).await?.into_iter().next() {
        Some((_, Err(refusal))) => answers.insert("held".to_owned(), refusal),
        _ => return Err(Failure::Admitted("held".to_owned())),
    };
    Ok(answers)
}

async fn wait(node: &Node<'_>) -> Result<BTreeMap<String, String>, Failure> {
    node.api.put(CLAIMS, object("former", &[0, 1]));
    node.api.put(CLAIMS, object("next", &[1]));
    begin(node, &["former"]).await?;
    node.api.delete(CLAIMS, "former");
    // A claim that is waited for is asked about.
    let asks = || node.api.requests(&format!("GET {CLAIMS}/former"));
    let before = asks();
    let ending = async {
        node.until("wait for the former claim", || asks() > before)
            .await?;
        node.unprepare(&["former"]).await
    };
    let (answers, ()) = tokio::try_join!(node.prepare(&["next"]), ending)?;
    Ok(answers)
}

async fn unprepare(node: &Node<'_>) -> Result<BTreeMap<String, String>, Failure> {
    for (name, gpus) in [("a", &[0, 1][..]), ("b", &[2]), ("c", &[3]), ("kept", &[4])] {
        node.api.put(CLAIMS, object(name, gpus));
    }
    begin(node, &["a", "b", "c", "kept"]).await?;
    tokio::try_join!(node.unprepare(&["a", "b"]), node.unprepare(&["c"]))?;
    node.prepare(&["kept"]).await
}

async fn reconcile(node: &mut Node<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let claims = [
        "damaged",
        "gone",
        "kept",
        "torn",
        "unrecorded",
        "unspecified",
    ];
    for (gpu, name) in (0..).zip(claims) {
        node.api.put(CLAIMS, object(name, &[gpu]));
    }
    node.attend().await?;
    node.prepare(&claims).await?;
    node.kill().await?;

    let [torn, unspecified] =
        ["torn", "unspecified"].map(|claim| node.spec(claim).unwrap_or_default());
    let [good_torn, good_unspecified] = [read(&torn), read(&unspecified)];
    node.api.delete(CLAIMS, "gone");
    damage(fs::write(node.record("damaged"), "damage"))?;
    damage(fs::write(&torn, "{}"))?;
    damage(fs::remove_file(node.record("unrecorded")))?;
    damage(fs::remove_file(&unspecified))?;
    node.with_damaged(&["torn", "unrecorded"]);
    node.with_grace("1ms");
    node.start_doomed(true).await?;
    let node = &*node;
    node.until("repair the node", || {
        read(&torn) == good_torn
            && read(&unspecified) == good_unspecified
            && !node.record("gone").exists()
            && node.record("unrecorded").exists()
            && read(&node.record("damaged")).is_some_and(|record| record != b"damage")
    })
    .await?;
    node.prepare(&["kept", "torn", "unspecified"]).await
}

/// Has a registered plugin with these claims prepared, whose points are counted from here on.
async fn begin(node: &Node<'_>, prepared: &[&str]) -> Result<(), Failure> {
    node.start_doomed(false).await?;
    node.until("publish", || is_published(node)).await?;
    if !prepared.is_empty() {
        node.prepare(prepared).await?;
    }
    node.arm().await
}

/// Unprepares all claims, ends the plugin, and finds nothing.
async fn leave(node: &Node<'_>) -> Result<(), Failure> {
    let found = node.api.list(CLAIMS);
    let names = found
        .iter()
        .filter_map(|claim| claim["metadata"]["name"].as_str());
    let names: Vec<_> = names.collect();
    if !names.is_empty() {
        node.unprepare(&names).await?;
    }
    if !node.terminate().await? {
        // It was killed while it ended, and the next one cleans up.
        node.attend().await?;
        node.terminate().await?;
    }
    match node.files()?.into_keys().next() {
        Some(file) => Err(Failure::Leaked(file)),
        None => Ok(()),
    }
}

/// One slice with all devices, and none of ours beside it.
fn is_published(node: &Node<'_>) -> bool {
    let slices = node.api.list(SLICES);
    let devices = |slice: &Value| slice["spec"]["devices"].as_array().map(Vec::len);
    slices.len() == 1 && slices[0]["spec"]["nodeName"] == NODE && devices(&slices[0]) == Some(GPUS)
}

/// The slices without what the server gives to each object anew.
fn slices(node: &Node<'_>) -> Vec<Value> {
    let mut slices = node.api.list(SLICES);
    for slice in &mut slices {
        if let Some(metadata) = slice["metadata"].as_object_mut() {
            metadata.retain(|field, _| field != "uid" && field != "resourceVersion");
        }
    }
    slices
}

fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

fn damage(done: std::io::Result<()>) -> Result<(), Failure> {
    done.map_err(Failure::io("damage", "a file of the node"))
}
