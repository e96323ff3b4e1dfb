//! The agent and the plugin's side of hooks on a card that keeps the rules of the driver, as the simulated hardware has
//! them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;
use tessera_claim::ClaimRef;
use tessera_hw::memory::{Accounting, NewLimits, UNLIMITED};
use tessera_hw::{Gpu, Profile};
use tessera_kubelet_plugin::memory_limits::{Card, Cgroups, MemoryLimits};
use tessera_nvml::{LimitError, LimitErrorReason};
use tessera_sharing::Measured;

use super::*;

mod crashes;
mod steps;

const GIB: u64 = 1 << 30;
const CARD: &str = "GPU-00000000-0000-0000-0000-000000000000";

fn card() -> GpuUuid {
    CARD.parse().unwrap()
}

/// A card, and a process that may die at one of its calls.
struct SimulatedCard {
    gpu: Mutex<Gpu>,
    death: Mutex<Death>,
}

#[derive(Default)]
struct Death {
    calls: usize,
    /// The call at which the process dies, and whether that call still has its effect.
    at: Option<(usize, bool)>,
}

impl SimulatedCard {
    fn h200() -> Arc<Self> {
        let mut node = Profile::load("h200").unwrap().instantiate("node-1");
        Arc::new(Self {
            gpu: Mutex::new(node.gpus.swap_remove(0)),
            death: Mutex::default(),
        })
    }

    fn refusal(cgroup: &str) -> SetError {
        SetError::Refused(LimitError {
            gpu: card(),
            cgroup: PathBuf::from(cgroup),
            call: "a call of the test",
            reason: LimitErrorReason::Other,
            fault: None,
        })
    }

    /// Does `act` if the process lives, or dies in it.
    fn call<T>(
        &self,
        cgroup: &str,
        act: impl FnOnce(&mut Gpu) -> Result<T, SetError>,
    ) -> Result<T, SetError> {
        let mut death = self.death.lock().unwrap();
        let number = death.calls;
        death.calls += 1;
        let at = death.at;
        drop(death);
        let mut gpu = self.gpu.lock().unwrap();
        match at {
            Some((at, _)) if number > at => Err(Self::refusal(cgroup)),
            Some((at, false)) if number == at => Err(Self::refusal(cgroup)),
            Some((at, true)) if number == at => {
                let _unheard = act(&mut gpu);
                Err(Self::refusal(cgroup))
            }
            _ => act(&mut gpu),
        }
    }

    /// All that programs can have.
    fn room(&self) -> u64 {
        let facts = self.gpu.lock().unwrap().facts.clone();
        (facts.memory_total_mib - facts.memory_reserved_mib) << 20
    }

    fn limit_of(&self, cgroup: &str) -> u64 {
        self.gpu.lock().unwrap().memory_limits(cgroup).hard
    }

    fn used_by(&self, cgroup: &str) -> u64 {
        self.gpu.lock().unwrap().memory_limits(cgroup).used
    }

    fn allocate(&self, cgroup: &str, bytes: u64) -> bool {
        let mut gpu = self.gpu.lock().unwrap();
        gpu.allocate(cgroup, bytes, Accounting::Misc).is_ok()
    }

    fn free(&self, cgroup: &str, bytes: u64) {
        self.gpu.lock().unwrap().free(cgroup, bytes);
    }
}

impl LimitOperations for SimulatedCard {
    fn look(&self, _: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError> {
        self.call("", |gpu| {
            let container = |cgroup: &String| {
                let limits = gpu.memory_limits(cgroup);
                let measured = Measured {
                    limit: (limits.hard != UNLIMITED).then_some(Bytes(limits.hard)),
                    used: Bytes(limits.used),
                };
                (cgroup.clone(), measured)
            };
            Ok(Card {
                memory: Bytes(gpu.facts.memory_total_mib << 20),
                reserved: Bytes(gpu.facts.memory_reserved_mib << 20),
                containers: cgroups.iter().map(container).collect(),
            })
        })
    }

    fn limit(&self, _: &GpuUuid, cgroup: &str, memory: Bytes) -> Result<(), SetError> {
        self.call(cgroup, |gpu| {
            let new = NewLimits {
                cgroup: cgroup.to_owned(),
                above: Vec::new(),
                soft: 0,
                hard: memory.0,
            };
            let set = gpu.set_memory_limits(&new);
            set.map_err(|_| Self::refusal(cgroup))
        })
    }
}

/// The operations of one process on a card.
struct Process(Arc<SimulatedCard>);

impl LimitOperations for Process {
    fn look(&self, gpu: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError> {
        self.0.look(gpu, cgroups)
    }

    fn limit(&self, gpu: &GpuUuid, cgroup: &str, memory: Bytes) -> Result<(), SetError> {
        self.0.limit(gpu, cgroup, memory)
    }
}

#[derive(Clone, Default)]
struct Records(Arc<Mutex<BTreeMap<String, Promised>>>);

impl Promises for Records {
    fn promised(&self) -> Result<Vec<Promised>, JournalError> {
        Ok(self.0.lock().unwrap().values().cloned().collect())
    }
}

/// A node with one card.
struct Node {
    directory: TempDir,
    card: Arc<SimulatedCard>,
    records: Records,
}

impl Node {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            card: SimulatedCard::h200(),
            records: Records::default(),
        }
    }

    fn cgroups(&self) -> PathBuf {
        self.directory.path().join("cgroup")
    }

    fn notes(&self) -> Written {
        let notes = self.directory.path().join("limits");
        Written::new(notes, Cgroups(self.cgroups()))
    }

    fn locks(&self) -> GpuLocks {
        GpuLocks::at(&self.directory.path().join("locks"))
    }

    fn agent(&self) -> Mover<Process, Records> {
        let process = Arc::new(Process(self.card.clone()));
        Mover::new(process, self.records.clone(), self.notes(), self.locks())
    }

    fn plugin(&self) -> MemoryLimits<Process, Records> {
        let process = Process(self.card.clone());
        MemoryLimits::new(process, self.records.clone(), self.notes(), self.locks())
    }

    /// A claim of this name is prepared.
    fn prepare(&self, name: &str, guarantee: u64, ceiling: u64) {
        let claim = ClaimRef {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("{name}-uid").parse().unwrap(),
        };
        let promised = Promised {
            share: name.to_owned(),
            holder: Some(Holder { claim, share: None }),
            gpu: card(),
            guarantee: Bytes(guarantee),
            ceiling: Bytes(ceiling),
        };
        let mut records = self.records.0.lock().unwrap();
        records.insert(name.to_owned(), promised);
    }

    fn unprepare(&self, name: &str) {
        self.records.0.lock().unwrap().remove(name);
    }

    /// The runtime makes a container for the claim's share and calls its hook. Returns whether the container starts.
    async fn start(&self, plugin: &MemoryLimits<Process, Records>, name: &str) -> bool {
        let bytes = self.records.0.lock().unwrap()[name].guarantee.0;
        let directory = self.cgroups().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("cgroup.events"), "populated 1\n").unwrap();
        let line =
            format!(r#"{{"share":"{name}","gpu":"{CARD}","bytes":{bytes},"cgroup":"/{name}"}}"#);
        plugin.hold_within(&line, Duration::ZERO).await.is_ok()
    }

    /// A container ends, with all of its processes.
    fn end(&self, name: &str) {
        let _ = std::fs::remove_dir_all(self.cgroups().join(name));
        self.card
            .gpu
            .lock()
            .unwrap()
            .remove_cgroup(&format!("/{name}"));
    }
}

fn seen(cards: &[CardReport]) -> &Seen {
    let [card] = cards else { panic!("{cards:?}") };
    card.outcome.as_ref().unwrap()
}

/// Three shares of 5 GiB with the whole card as their limit on an H200: each grows while there is room.
#[tokio::test]
async fn growth_stops_where_the_unfilled_guarantees_of_others_begin() {
    let node = Node::new();
    let all = node.card.room();
    let names = ["a", "b", "c"];
    for name in names {
        node.prepare(name, 5 * GIB, all);
    }
    let (plugin, agent) = (node.plugin(), node.agent());
    for name in names {
        assert!(node.start(&plugin, name).await);
    }
    for grower in names {
        let cgroup = format!("/{grower}");
        let mut failures = 0;
        while failures < 2 {
            failures = if node.card.allocate(&cgroup, 64 << 20) {
                0
            } else {
                failures + 1
            };
            seen(&agent.tick().await.unwrap());
        }
        let grown = node.card.used_by(&cgroup);
        let guaranteed = all - 10 * GIB;
        assert!(grown <= guaranteed, "{grower}: {grown}");
        assert!(guaranteed - grown <= 256 << 20, "{grower}: {grown}");
        for other in names.iter().filter(|other| **other != grower) {
            let limit = node.card.limit_of(&format!("/{other}"));
            assert!(limit >= 5 * GIB, "{other}: {limit}");
        }
        node.card.free(&cgroup, grown);
        agent.tick().await.unwrap();
    }
}

#[tokio::test]
async fn a_claim_that_comes_later_waits_for_its_guarantee_and_starts_when_it_is_free() {
    let node = Node::new();
    let all = node.card.room();
    node.prepare("a", 5 * GIB, all);
    let (plugin, agent) = (node.plugin(), node.agent());
    assert!(node.start(&plugin, "a").await);
    assert!(node.card.allocate("/a", all - GIB));
    node.prepare("b", 20 * GIB, 20 * GIB);
    assert!(!node.start(&plugin, "b").await);
    let cards = agent.tick().await.unwrap();
    assert_eq!(seen(&cards).missing, Bytes(19 * GIB));
    // It is given what is free as the borrower gives back.
    node.card.free("/a", 30 * GIB);
    assert!(node.start(&plugin, "b").await);
    assert!(node.card.limit_of("/b") >= 20 * GIB);
    assert!(node.card.allocate("/b", 20 * GIB));
}

#[tokio::test]
async fn what_no_note_names_is_never_touched_and_what_no_record_names_keeps_its_limit() {
    let node = Node::new();
    let all = node.card.room();
    for name in ["a", "lost"] {
        node.prepare(name, 5 * GIB, all);
    }
    let (plugin, agent) = (node.plugin(), node.agent());
    for name in ["a", "lost"] {
        assert!(node.start(&plugin, name).await);
    }
    assert!(node.card.allocate("/stranger", 10 * GIB));
    node.unprepare("lost");
    let before = node.card.limit_of("/lost");
    for _ in 0..3 {
        agent.tick().await.unwrap();
    }
    assert_eq!(node.card.limit_of("/stranger"), UNLIMITED);
    assert_eq!(node.card.limit_of("/lost"), before);
    let together = before + node.card.limit_of("/a");
    assert!(together <= all, "{together}");
}

#[tokio::test]
async fn a_node_without_shares_asks_the_driver_nothing() {
    let node = Node::new();
    node.prepare("a", 5 * GIB, 10 * GIB);
    assert!(node.agent().tick().await.unwrap().is_empty());
    assert_eq!(node.card.death.lock().unwrap().calls, 0);
}
