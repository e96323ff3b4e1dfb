use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex as StdMutex;

use tempfile::TempDir;
use tessera_limit_call::ask;
use tokio_util::sync::CancellationToken;

use super::*;

const GPU: &str = "GPU-00000003-0000-0000-0000-000000000000";
const GIB: u64 = 1 << 30;

/// A driver that keeps limits, and dies or refuses as a test wants.
#[derive(Clone, Default)]
struct Driver(Arc<StdMutex<DriverState>>);

/// A card of 140 GiB.
#[derive(Default)]
struct DriverState {
    limits: BTreeMap<String, Bytes>,
    used: BTreeMap<String, Bytes>,
    refuses: bool,
}

impl LimitOperations for Driver {
    fn look(&self, _: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError> {
        let state = self.0.lock().unwrap();
        let container = |cgroup: &String| {
            let measured = Measured {
                limit: state.limits.get(cgroup).copied(),
                used: state.used.get(cgroup).copied().unwrap_or(Bytes(0)),
            };
            (cgroup.clone(), measured)
        };
        Ok(Card {
            memory: Bytes(140 * GIB),
            reserved: Bytes(0),
            containers: cgroups.iter().map(container).collect(),
        })
    }

    fn limit(&self, _: &GpuUuid, cgroup: &str, memory: Bytes) -> Result<(), SetError> {
        let mut state = self.0.lock().unwrap();
        if state.refuses {
            return Err(SetError::Driver(DriverRootError::OpenRoot {
                mounted: "/driver".into(),
                host: "/driver".into(),
                source: std::io::ErrorKind::NotFound.into(),
            }));
        }
        state.limits.insert(cgroup.to_owned(), memory);
        Ok(())
    }
}

/// What records say: nothing of most shares, as after their loss.
#[derive(Clone, Default)]
struct Known(Vec<Promised>);

impl Promises for Known {
    fn promised(&self) -> Result<Vec<Promised>, JournalError> {
        Ok(self.0.clone())
    }
}

struct Node {
    root: TempDir,
    driver: Driver,
    known: Known,
}

impl Node {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            driver: Driver::default(),
            known: Known::default(),
        }
    }

    fn notes(&self) -> PathBuf {
        self.root.path().join("limits")
    }

    fn cgroups(&self) -> PathBuf {
        self.root.path().join("cgroup")
    }

    /// A process of the plugin begins.
    fn start(&self) -> MemoryLimits<Driver, Known> {
        let notes = Written::new(self.notes(), Cgroups(self.cgroups()));
        let locks = GpuLocks::at(&self.root.path().join("locks"));
        MemoryLimits::new(self.driver.clone(), self.known.clone(), notes, locks)
    }

    /// A share that is prepared, and may grow to the whole card.
    fn prepared(&mut self, share: &str, gib: u64) {
        let claim = tessera_claim::ClaimRef {
            namespace: "default".to_owned(),
            name: format!("claim-{share}"),
            uid: format!("{share}-uid").parse().unwrap(),
        };
        self.known.0.push(Promised {
            share: share.to_owned(),
            holder: Some(Holder { claim, share: None }),
            gpu: GPU.parse().unwrap(),
            guarantee: Bytes(gib * GIB),
            ceiling: Bytes(140 * GIB),
        });
    }

    fn uses(&self, cgroup: &str, gib: u64) {
        let mut state = self.driver.0.lock().unwrap();
        state.used.insert(format!("/{cgroup}"), Bytes(gib * GIB));
    }

    fn container(&self, cgroup: &str) {
        let directory = self.cgroups().join(cgroup);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    }

    fn end(&self, cgroup: &str) {
        fs::remove_dir_all(self.cgroups().join(cgroup)).unwrap();
    }

    fn limit_of(&self, cgroup: &str) -> Option<Bytes> {
        let state = self.driver.0.lock().unwrap();
        state.limits.get(&format!("/{cgroup}")).copied()
    }

    fn written(&self) -> Vec<String> {
        let entries = fs::read_dir(self.notes()).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }
}

fn request(share: &str, gib: u64, cgroup: &str) -> Request {
    Request {
        share: share.to_owned(),
        gpu: GPU.to_owned(),
        bytes: gib * GIB,
        cgroup: format!("/{cgroup}"),
    }
}

fn wish(share: &str, gib: u64, cgroup: &str) -> String {
    request(share, gib, cgroup).line()
}

#[track_caller]
fn refusal(answer: Answer) -> String {
    match answer {
        Answer::Refused(why) => why,
        Answer::Held => panic!("it is held"),
    }
}

#[tokio::test]
async fn a_container_is_held_to_the_sum_of_its_shares_and_its_notes_end_with_it() {
    let node = Node::new();
    let limits = node.start();
    node.container("a");
    assert_eq!(limits.answer(&wish("s-1", 5, "a")).await, Answer::Held);
    assert_eq!(limits.answer(&wish("s-1", 5, "a")).await, Answer::Held);
    assert_eq!(node.limit_of("a"), Some(Bytes(5 * GIB)));
    assert_eq!(limits.answer(&wish("s-2", 2, "a")).await, Answer::Held);
    assert_eq!(node.limit_of("a"), Some(Bytes(7 * GIB)));
    node.end("a");
    limits.tidy().await;
    assert_eq!(node.written(), [""; 0]);
}

#[tokio::test]
async fn a_share_has_one_container_at_a_time_also_after_a_restart_of_the_plugin() {
    let node = Node::new();
    for cgroup in ["a", "b"] {
        node.container(cgroup);
    }
    let first = node.start().answer(&wish("s-1", 5, "a")).await;
    assert_eq!(first, Answer::Held);
    let limits = node.start();
    let why = refusal(limits.answer(&wish("s-1", 5, "b")).await);
    assert!(
        why.contains("/a") && why.contains("request of its own"),
        "{why}"
    );
    assert_eq!(node.limit_of("b"), None);
    // The first has ended, and the runtime has not removed its cgroup yet.
    let events = node.cgroups().join("a/cgroup.events");
    fs::write(events, "populated 0\nfrozen 0\n").unwrap();
    assert_eq!(limits.answer(&wish("s-1", 5, "b")).await, Answer::Held);
    assert_eq!(node.limit_of("b"), Some(Bytes(5 * GIB)));
}

#[tokio::test]
async fn a_wish_that_the_driver_refuses_or_that_is_none_is_refused_with_the_reason() {
    let node = Node::new();
    node.container("a");
    let limits = node.start();
    node.driver.0.lock().unwrap().refuses = true;
    let why = refusal(limits.answer(&wish("s-1", 5, "a")).await);
    assert!(why.contains("/driver"), "{why}");
    node.driver.0.lock().unwrap().refuses = false;
    assert_eq!(limits.answer(&wish("s-1", 5, "a")).await, Answer::Held);
    let odd_gpu = Request {
        gpu: "0".to_owned(),
        ..request("s-2", 5, "a")
    };
    for line in [
        "",
        "{}",
        &wish("../s", 5, "a"),
        &wish("s-2", 0, "a"),
        &wish("s-2", 5, "../a"),
        &odd_gpu.line(),
    ] {
        refusal(limits.answer(line).await);
    }
    assert_eq!(node.written(), ["s-1.limit"]);
}

#[tokio::test]
async fn a_note_that_cannot_be_understood_is_in_the_way_of_its_own_share_alone() {
    let node = Node::new();
    node.container("a");
    fs::create_dir(node.notes()).unwrap();
    fs::write(node.notes().join("s-1.limit"), "{").unwrap();
    fs::write(node.notes().join("other"), "").unwrap();
    let limits = node.start();
    let why = refusal(limits.answer(&wish("s-1", 5, "a")).await);
    assert!(why.contains("s-1.limit"), "{why}");
    assert_eq!(limits.answer(&wish("s-2", 5, "a")).await, Answer::Held);
    limits.tidy().await;
    assert!(node.written().contains(&"s-1.limit".to_owned()));
}

#[tokio::test]
async fn shares_that_may_grow_start_with_what_is_free_and_never_with_what_others_are_guaranteed() {
    let mut node = Node::new();
    for (share, gib) in [("s-1", 5), ("s-2", 5), ("s-3", 20)] {
        node.prepared(share, gib);
    }
    let limits = node.start();
    node.container("a");
    assert_eq!(limits.answer(&wish("s-1", 5, "a")).await, Answer::Held);
    assert_eq!(node.limit_of("a"), Some(Bytes(115 * GIB)));
    node.container("b");
    assert_eq!(limits.answer(&wish("s-2", 5, "b")).await, Answer::Held);
    let together = node.limit_of("a").unwrap().0 + node.limit_of("b").unwrap().0;
    assert!(together <= 120 * GIB, "{together}");
    node.container("c");
    assert_eq!(limits.answer(&wish("s-3", 20, "c")).await, Answer::Held);
    let limit = |cgroup| node.limit_of(cgroup).unwrap().0;
    assert!(limit("c") >= 20 * GIB);
    assert!(limit("a") + limit("b") + limit("c") <= 140 * GIB);
}

#[tokio::test]
async fn a_container_whose_guarantee_is_borrowed_waits_for_those_who_have_it() {
    let mut node = Node::new();
    node.prepared("s-1", 5);
    let limits = node.start();
    node.container("a");
    assert_eq!(limits.answer(&wish("s-1", 5, "a")).await, Answer::Held);
    assert_eq!(node.limit_of("a"), Some(Bytes(140 * GIB)));
    node.uses("a", 130);
    node.prepared("s-2", 20);
    node.container("b");
    let limits = node.start();
    let wanted = Holding {
        share: "s-2".to_owned(),
        gpu: GPU.parse().unwrap(),
        memory: Bytes(20 * GIB),
        cgroup: "/b".to_owned(),
    };
    let error = limits.attempt(&wanted).await.unwrap_err();
    assert!(matches!(error, NotHeld::NoRoom(_)), "{error}");
    let why = error.to_string();
    assert!(why.contains("default/claim-s-1"), "{why}");
    assert!(why.contains("20Gi") && why.contains("10Gi"), "{why}");
    assert_eq!(node.limit_of("b"), None);
    assert_eq!(
        node.limit_of("a"),
        Some(Bytes(130 * GIB)),
        "it gets no more"
    );
    node.uses("a", 120);
    assert_eq!(limits.answer(&wish("s-2", 20, "b")).await, Answer::Held);
    assert_eq!(node.limit_of("b"), Some(Bytes(20 * GIB)));
}

/// Whatever a process has done of a wish when it dies, the next one answers the hook as if there had been no death.
#[tokio::test]
async fn a_death_between_note_and_limit_is_mended_by_the_wish_that_is_repeated() {
    for died_after in ["nothing", "the note", "the limit"] {
        let node = Node::new();
        node.container("a");
        let dying = node.start();
        node.driver.0.lock().unwrap().refuses = died_after == "the note";
        if died_after != "nothing" {
            let _unheard = dying.answer(&wish("s-1", 5, "a")).await;
        }
        drop(dying);
        node.driver.0.lock().unwrap().refuses = false;
        let next = node.start();
        let answer = next.answer(&wish("s-1", 5, "a")).await;
        assert_eq!(answer, Answer::Held, "died after {died_after}");
        assert_eq!(node.limit_of("a"), Some(Bytes(5 * GIB)));
        assert_eq!(node.written(), ["s-1.limit"]);
        // Or the hook has died too: the runtime lets no container start and removes the cgroup.
        node.end("a");
        next.tidy().await;
        assert_eq!(node.written(), [""; 0]);
    }
}

#[tokio::test]
async fn hooks_are_served_by_the_next_process_when_one_ends() {
    let node = Node::new();
    let socket = node.root.path().join("plugin/memory.sock");
    let mut serving = Vec::new();
    for _ in 0..2 {
        let stop = CancellationToken::new();
        let limits = Arc::new(node.start());
        let task = tokio::spawn(serve(limits, socket.clone(), stop.clone()));
        serving.push((stop, task));
    }
    for (number, (stop, task)) in serving.into_iter().enumerate() {
        let cgroup = format!("c{number}");
        node.container(&cgroup);
        let request = request(&format!("s-{number}"), 1, &cgroup);
        let socket = socket.clone();
        let asking = tokio::task::spawn_blocking(move || {
            ask(&socket, &request, Duration::from_mins(1)).unwrap()
        });
        assert_eq!(asking.await.unwrap(), Answer::Held);
        assert_eq!(node.limit_of(&cgroup), Some(Bytes(GIB)));
        stop.cancel();
        task.await.unwrap();
    }
    assert!(!socket.exists());
}
