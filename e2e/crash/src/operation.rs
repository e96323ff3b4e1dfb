//! What the plugin does while it is killed, and what must come of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use tessera_hw::facts::derive_uuid;
use tessera_hw::injection::ANY_FUNCTION;

use crate::claims::{CLAIMS, DRIVER, NODE, SLICES, object, object_of, uid, with_time_slice};
use crate::failure::Failure;
use crate::node::Node;

/// By what NVML changes how a GPU is cut.
const CHANGES: [&str; 6] = [
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstance",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlComputeInstanceDestroy",
    "nvmlGpuInstanceDestroy",
];

/// What `nvidia-smi` calls when it sets how a GPU is shared: the plugin dies with it. The time slice is set by a function of the
/// simulation's own, for no header names the real one.
const SETTINGS: [&str; 4] = [
    "nvmlInit",
    "nvmlDeviceSetComputeMode",
    "simulatedDeviceSetTimeSlice",
    "nvmlShutdown",
];

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
    /// It cuts a GPU for two claims, and puts it together for a third.
    Cut,
    /// It sets the time slices of two GPUs, sets one back, and prepares a claim on that GPU that asks for none.
    TakeTurns,
    /// It starts on a node on which the reference driver has prepared a claim, begun with another and left a spec of a third.
    TakeOver,
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
    pub const ALL: [Self; 8] = [
        Self::Publish,
        Self::Prepare,
        Self::Wait,
        Self::Unprepare,
        Self::Reconcile,
        Self::Cut,
        Self::TakeTurns,
        Self::TakeOver,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Prepare => "prepare",
            Self::Wait => "wait",
            Self::Unprepare => "unprepare",
            Self::Reconcile => "reconcile",
            Self::Cut => "cut",
            Self::TakeTurns => "take turns",
            Self::TakeOver => "take over",
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
            Self::Cut => {
                "each claim gets a MIG device of its own, and no device outlives its claim"
            }
            Self::TakeTurns => "a time slice is set exactly while a claim wants it",
            Self::TakeOver => {
                "claims of the reference driver are taken over once, whole, and as they are"
            }
        }
    }

    /// The NVML functions at which the plugin dies in it: all where it looks for GPUs; where it changes them, those by which it
    /// does, for between two of these it only looks.
    pub fn nvml(self) -> &'static [&'static str] {
        match self {
            Self::Publish | Self::Reconcile => &[ANY_FUNCTION],
            Self::Cut => &CHANGES,
            Self::TakeTurns => &SETTINGS,
            Self::Prepare | Self::Wait | Self::Unprepare | Self::TakeOver => &[],
        }
    }

    /// Does it on a fresh node and tells the end; then unprepares everything, ends the plugin and looks at what is left.
    pub async fn run(self, node: &mut Node<'_>) -> Result<End, Failure> {
        let answers = match self {
            Self::Publish => publish(node).await,
            Self::Prepare => prepare(node).await,
            Self::Wait => wait(node).await,
            Self::Unprepare => unprepare(node).await,
            Self::Reconcile => reconcile(node).await,
            Self::Cut => cut(node).await,
            Self::TakeTurns => take_turns(node).await,
            Self::TakeOver => take_over(node).await,
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
        set(node, &[])?;
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

/// What is made has another identity in each run, so that everything is compared when it is gone.
async fn cut(node: &mut Node<'_>) -> Result<BTreeMap<String, String>, Failure> {
    node.with_dynamic_mig();
    for (name, place) in [("left", 0), ("right", 1)] {
        let device = format!("gpu-2-mig-1g10gb-19-{place}");
        node.api.put(CLAIMS, object_of(name, &[device]));
    }
    node.api.put(CLAIMS, object("whole", &[2]));
    let node = &*node;
    begin(node, &[]).await?;
    let mut answers = node.prepare(&["left", "right"]).await?;
    node.check()?;
    node.unprepare(&["left", "right"]).await?;
    answers.extend(node.prepare(&["whole"]).await?);
    match node.cut()?.pop() {
        Some(cut) => Err(Failure::Leaked(cut)),
        None => Ok(answers),
    }
}

/// Each time slice is looked at as soon as the kubelet has its answer.
async fn take_turns(node: &mut Node<'_>) -> Result<BTreeMap<String, String>, Failure> {
    node.with_time_slices();
    for (name, gpu, interval) in [("long", 2, "Long"), ("short", 3, "Short")] {
        let claim = with_time_slice(object(name, &[gpu]), interval);
        node.api.put(CLAIMS, claim);
    }
    node.api.put(CLAIMS, object("plain", &[2]));
    let node = &*node;
    begin(node, &[]).await?;
    let mut answers = node.prepare(&["long", "short"]).await?;
    node.check()?;
    set(node, &["Long on GPU 2", "Short on GPU 3"])?;
    node.unprepare(&["long"]).await?;
    set(node, &["Short on GPU 3"])?;
    answers.extend(node.prepare(&["plain"]).await?);
    set(node, &["Short on GPU 3"])?;
    Ok(answers)
}

/// Holds if these time slices are set and no other.
fn set(node: &Node<'_>, wanted: &[&str]) -> Result<(), Failure> {
    let found = node.time_slices()?;
    if found == wanted {
        return Ok(());
    }
    let wanted = wanted.iter().map(ToString::to_string).collect();
    Err(Failure::Set { found, wanted })
}

/// The files of the reference driver are made here from what is known of its formats; its specs are JSON, which is YAML.
async fn take_over(node: &mut Node<'_>) -> Result<BTreeMap<String, String>, Failure> {
    for (name, gpus) in [("taken", &[0, 1][..]), ("begun", &[2]), ("held", &[1, 4])] {
        node.api.put(CLAIMS, object(name, gpus));
    }
    node.attend().await?;
    node.prepare(&["taken"]).await?;
    node.terminate().await?;
    let ours = node.spec("taken").unwrap_or_default();
    let specs = node.path("cdi");
    let theirs = |claim| specs.join(format!("k8s.gpu.nvidia.com-claim_{}.yaml", uid(claim)));
    let spec = read(&ours).unwrap_or_default();
    for claim in ["begun", "stale"] {
        damage(fs::write(theirs(claim), r#"{"devices": []}"#))?;
    }
    damage(fs::rename(&ours, theirs("taken")))?;
    let record = node.record("taken");
    let copy = record
        .with_file_name("copies")
        .join(record.file_name().unwrap_or_default());
    damage(fs::remove_file(&record).and_then(|()| fs::remove_file(copy)))?;
    let (plugin, boot) = (
        node.path(&format!("plugins/{DRIVER}")),
        fs::read_to_string("/proc/sys/kernel/random/boot_id"),
    );
    let boot = boot.map_err(Failure::io("read", "the boot's identity"))?;
    let checkpoint = checkpoint(boot.trim());
    damage(fs::create_dir_all(&plugin))?;
    damage(fs::write(
        plugin.join("checkpoint.json"),
        checkpoint.to_string(),
    ))?;
    node.with_damaged(&["taken", "begun", "stale"]);
    node.start_doomed(true).await?;
    let node = &*node;
    let kept = plugin.join("checkpoint.json.taken-over");
    node.until("take the node over", || {
        kept.exists() && node.record("taken").exists() && is_published(node)
    })
    .await?;
    if read(&theirs("taken")) != Some(spec) {
        return Err(Failure::Torn(theirs("taken").display().to_string()));
    }
    let mut answers = node.prepare(&["taken", "begun"]).await?;
    match node.try_prepare(&["held"]).await?.into_iter().next() {
        Some((_, Err(refusal))) => answers.insert("held".to_owned(), refusal),
        _ => return Err(Failure::Admitted("held".to_owned())),
    };
    // It is kept for people, and everything else must be gone at the end.
    damage(fs::remove_file(kept))?;
    Ok(answers)
}

/// What the reference driver keeps of a claim that is prepared and of one whose preparation has begun.
fn checkpoint(boot: &str) -> Value {
    let result = |gpu: usize| json!({"request": "gpus", "driver": DRIVER, "pool": NODE, "device": format!("gpu-{gpu}")});
    let status = |gpus: &[usize]| {
        let results: Vec<Value> = gpus.iter().map(|gpu| result(*gpu)).collect();
        json!({"allocation": {"devices": {"results": results}}})
    };
    let device = |gpu: usize| {
        let cdi = format!("k8s.gpu.nvidia.com/claim={}-gpu-{gpu}", uid("taken"));
        json!({"gpu": {"info": {"uuid": derive_uuid(NODE, gpu)}, "device": {"Requests": ["gpus"], "PoolName": NODE,
            "DeviceName": format!("gpu-{gpu}"), "CDIDeviceIDs": [cdi]}}, "mig": null})
    };
    let (taken, begun) = (uid("taken"), uid("begun"));
    json!({"checksum": 1, "v2": {"checksum": 2, "nodeBootID": boot, "preparedClaims": {
        taken: {"checkpointState": "PrepareCompleted", "status": status(&[0, 1]),
            "preparedDevices": [{"devices": [device(0), device(1)], "configState": {}}]},
        begun: {"checkpointState": "PrepareStarted", "status": status(&[2]), "name": "begun", "namespace": "default"},
    }}})
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

/// All slices of the pool with all GPUs, and none of ours beside them.
fn is_published(node: &Node<'_>) -> bool {
    let slices = node.api.list(SLICES);
    let is_one = |slice: &Value| {
        let spec = &slice["spec"];
        spec["nodeName"] == NODE && spec["pool"]["resourceSliceCount"] == slices.len()
    };
    let devices = slices
        .iter()
        .filter_map(|slice| slice["spec"]["devices"].as_array());
    let is_gpu = |device: &&Value| {
        let name = device["name"]
            .as_str()
            .and_then(|name| name.strip_prefix("gpu-"));
        name.is_some_and(|minor| minor.parse::<usize>().is_ok())
    };
    slices.iter().all(is_one) && devices.flatten().filter(is_gpu).count() == GPUS
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
