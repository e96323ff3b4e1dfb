use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use serde_json::json;
use tempfile::TempDir;
use tessera_claim::ClaimRef;
use tessera_device::Bytes;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::record::{Phase, Record};
use tessera_prepare::testing::{record, share_record};
use tessera_sharing::{AT_ONCE, Measured};

use super::*;
use crate::driver_root::DriverRootError;
use crate::locks::GpuLocks;
use crate::memory_limits::{Card, Cgroups, SetError, Written};

const GIB: u64 = 1 << 30;
const DRIVER: &str = "gpu.nvidia.com";

/// Cards on which every container has a limit of 10 GiB, or none that tells of them.
#[derive(Default)]
struct Cards {
    used: Mutex<BTreeMap<String, u64>>,
    away: Mutex<bool>,
    looks: Mutex<usize>,
}

impl LimitOperations for Cards {
    fn look(&self, _: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError> {
        *self.looks.lock().unwrap() += 1;
        if *self.away.lock().unwrap() {
            return Err(SetError::Driver(DriverRootError::OpenRoot {
                mounted: "/driver".into(),
                host: "/driver".into(),
                source: std::io::ErrorKind::NotFound.into(),
            }));
        }
        let used = self.used.lock().unwrap();
        let measured = |cgroup: &String| {
            let measured = Measured {
                limit: Some(Bytes(10 * GIB)),
                used: Bytes(*used.get(cgroup)?),
            };
            Some((cgroup.clone(), measured))
        };
        Ok(Card {
            memory: Bytes(140 * GIB),
            reserved: Bytes(0),
            containers: cgroups.iter().filter_map(measured).collect(),
        })
    }

    fn limit(&self, _: &GpuUuid, _: &str, _: Bytes) -> Result<(), SetError> {
        panic!("who tells of limits sets none")
    }
}

/// An API server of claims that say something of their devices.
#[derive(Clone, Default)]
struct Board(Arc<Mutex<BoardState>>);

#[derive(Default)]
struct BoardState {
    says: BTreeMap<ClaimUid, Vec<AllocatedDeviceStatus>>,
    reads: usize,
    writes: usize,
    /// How it answers instead.
    fails: Option<fn() -> StatusError>,
}

impl StatusBoard for Board {
    async fn read(&self, claim: &ClaimRef) -> Result<Vec<AllocatedDeviceStatus>, StatusError> {
        let mut state = self.0.lock().unwrap();
        state.reads += 1;
        match state.fails {
            Some(error) => Err(error()),
            None => Ok(state.says.get(&claim.uid).cloned().unwrap_or_default()),
        }
    }

    async fn apply(
        &self,
        claim: &ClaimRef,
        entries: &[AllocatedDeviceStatus],
    ) -> Result<(), StatusError> {
        let mut state = self.0.lock().unwrap();
        if let Some(error) = state.fails {
            return Err(error());
        }
        state.writes += 1;
        state.says.insert(claim.uid.clone(), entries.to_vec());
        Ok(())
    }
}

impl Board {
    fn fails(&self, how: Option<fn() -> StatusError>) {
        self.0.lock().unwrap().fails = how;
    }

    /// Reads and writes so far.
    fn calls(&self) -> (usize, usize) {
        let state = self.0.lock().unwrap();
        (state.reads, state.writes)
    }

    /// The conditions of the claim's only share, as `type=status/reason`.
    fn said(&self, claim: &str) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let uid = format!("{claim}-uid").parse().unwrap();
        let [entry] = state.says[&uid].as_slice() else {
            panic!("{claim} has one share")
        };
        let conditions = entry.conditions.iter().flatten();
        conditions
            .map(|one| format!("{}={}/{}", one.type_, one.status, one.reason))
            .collect()
    }
}

struct Node {
    directory: TempDir,
    cards: Arc<Cards>,
    board: Board,
    /// Seconds since the beginning.
    second: u64,
    begun: Instant,
}

impl Node {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            cards: Arc::default(),
            board: Board::default(),
            second: 0,
            begun: Instant::now(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.path("claims"), CdiKind::claim()).unwrap()
    }

    /// A process begins.
    fn start(&self) -> ShareStatuses<Cards, Board> {
        let notes = Written::new(self.path("limits"), Cgroups(self.path("cgroup")));
        let locks = GpuLocks::at(&self.path("limit-locks"));
        let sight = Sight::new(self.cards.clone(), notes, locks);
        let (board, metrics) = (self.board.clone(), StatusMetrics::default());
        ShareStatuses::new(DRIVER, self.journal(), sight, board, metrics)
    }

    /// A claim with a share that is held, or one that is not.
    fn prepare(&self, name: &str, is_held: bool) -> Record {
        let mut record = share_record(name, 0, &[(&format!("{name}-share"), 5)]);
        record.devices[0].memory_limit = is_held.then_some(Bytes(5 * GIB));
        self.journal().write(&record).unwrap();
        record
    }

    /// A container gets the share of a record.
    fn run(&self, record: &Record, used: u64) {
        let device = &record.devices[0];
        let (_, share) = device.cdi_id.split_once('=').unwrap();
        let cgroup = format!("/{}", record.claim.name);
        let note = json!({"gpu": device.gpu.to_string(), "bytes": 5 * GIB, "cgroup": cgroup});
        let notes = self.path("limits");
        fs::create_dir_all(&notes).unwrap();
        fs::write(
            Path::new(&notes).join(format!("{share}.limit")),
            note.to_string(),
        )
        .unwrap();
        self.cards.used.lock().unwrap().insert(cgroup, used);
    }

    /// One round, so many seconds after the last one.
    async fn round(
        &mut self,
        statuses: &mut ShareStatuses<Cards, Board>,
        seconds: u64,
    ) -> Duration {
        self.second += seconds;
        let second = i64::try_from(self.second).unwrap();
        let at = Moment {
            time: Timestamp::from_second(second).unwrap(),
            instant: self.begun + Duration::from_secs(self.second),
        };
        statuses.round(at).await.unwrap()
    }
}

const IDLE: [&str; 3] = [
    "Enforced=True/Native",
    "NearLimit=False/NoContainer",
    "Violation=False/NoContainer",
];
const RUNS: [&str; 3] = [
    "Enforced=True/Native",
    "NearLimit=False/BelowLimit",
    "Violation=False/WithinLimit",
];
const NEAR: [&str; 3] = [
    "Enforced=True/Native",
    "NearLimit=True/NearLimit",
    "Violation=False/WithinLimit",
];

#[tokio::test]
async fn a_claim_says_how_its_share_fares_from_its_preparation_on() {
    let mut node = Node::new();
    let mut statuses = node.start();
    let record = node.prepare("a", true);
    node.round(&mut statuses, 15).await;
    assert_eq!(node.board.said("a"), IDLE);
    node.run(&record, GIB);
    node.round(&mut statuses, 15).await;
    assert_eq!(node.board.said("a"), RUNS);
    node.run(&record, 10 * GIB);
    node.round(&mut statuses, 15).await;
    assert_eq!(node.board.said("a"), NEAR);
    node.cards.used.lock().unwrap().clear();
    node.round(&mut statuses, 15).await;
    assert_eq!(node.board.said("a"), IDLE);
    let state = node.board.0.lock().unwrap();
    let data = &state.says.values().next().unwrap()[0].data;
    let data = &data.as_ref().unwrap().0;
    assert_eq!(data["peakBytes"], 10 * GIB);
}

#[tokio::test]
async fn a_share_that_nothing_holds_says_so_and_no_driver_is_asked() {
    let mut node = Node::new();
    let mut statuses = node.start();
    node.prepare("a", false);
    node.round(&mut statuses, 15).await;
    let unheld = [
        "Enforced=False/None",
        "NearLimit=Unknown/NotMeasured",
        "Violation=Unknown/NotMeasured",
    ];
    assert_eq!(node.board.said("a"), unheld);
    assert_eq!(*node.cards.looks.lock().unwrap(), 0);
}

#[tokio::test]
async fn only_prepared_shares_are_told_of() {
    let mut node = Node::new();
    let mut statuses = node.start();
    let mut begun = node.prepare("begun", true);
    begun.phase = Phase::Preparing;
    node.journal().write(&begun).unwrap();
    node.journal().write(&record("whole", &[1])).unwrap();
    node.round(&mut statuses, 15).await;
    assert_eq!(node.board.calls(), (0, 0));
}

#[tokio::test]
async fn sixty_four_idle_shares_are_written_once_and_never_again_also_after_a_restart() {
    let mut node = Node::new();
    let mut statuses = node.start();
    for number in 0..64 {
        let record = node.prepare(&format!("claim-{number}"), true);
        node.run(&record, GIB);
    }
    for _ in 0..64 / AT_ONCE {
        let before = node.board.calls().1;
        node.round(&mut statuses, 15).await;
        assert_eq!(node.board.calls().1, before + AT_ONCE);
    }
    for _ in 0..20 {
        node.round(&mut statuses, 300).await;
    }
    assert_eq!(node.board.calls(), (64, 64));
    let mut next = node.start();
    for _ in 0..20 {
        node.round(&mut next, 300).await;
    }
    assert_eq!(node.board.calls(), (128, 64));
}

#[tokio::test]
async fn a_process_that_begins_goes_on_from_what_the_claim_says() {
    let mut node = Node::new();
    let mut statuses = node.start();
    let record = node.prepare("a", true);
    node.run(&record, 10 * GIB);
    node.round(&mut statuses, 15).await;
    // Below 95 % and above 90 %: it is near because it was.
    node.run(&record, 10 * GIB / 100 * 92);
    let mut next = node.start();
    node.round(&mut next, 100).await;
    assert_eq!(node.board.said("a"), NEAR);
    assert_eq!(node.board.calls().1, 1);
}

#[tokio::test]
async fn figures_that_move_are_written_once_a_minute() {
    let mut node = Node::new();
    let mut statuses = node.start();
    let record = node.prepare("a", true);
    node.run(&record, 0);
    node.round(&mut statuses, 15).await;
    for second in 1..=40_u64 {
        node.run(&record, (second % 2) * 5 * GIB);
        node.round(&mut statuses, 15).await;
    }
    let (_, writes) = node.board.calls();
    assert!((5..=11).contains(&writes), "{writes} in ten minutes");
}

#[tokio::test]
async fn while_the_api_server_is_away_one_claim_is_tried_and_its_return_is_no_storm() {
    let mut node = Node::new();
    let mut statuses = node.start();
    for number in 0..32 {
        let record = node.prepare(&format!("claim-{number}"), true);
        node.run(&record, GIB);
    }
    node.board.fails(Some(StatusError::silent));
    let mut longest = Duration::ZERO;
    for round in 1..=20 {
        let pause = node.round(&mut statuses, 15).await;
        assert_eq!(node.board.calls(), (round, 0));
        assert!(pause >= INTERVAL);
        longest = longest.max(pause);
    }
    assert!(longest > INTERVAL, "rounds become rarer");
    node.board.fails(None);
    node.round(&mut statuses, 15).await;
    assert_eq!(node.board.calls().1, AT_ONCE);
}

#[tokio::test]
async fn a_claim_that_is_gone_or_refused_is_left_alone_and_without_the_right_all_are() {
    type Way = (fn() -> StatusError, Duration, bool);
    fn told() -> kube::Error {
        kube::Error::Service("told".into())
    }
    let ways: [Way; 4] = [
        (|| StatusError::Gone, INTERVAL, false),
        (|| StatusError::NotKept, INTERVAL, false),
        (|| StatusError::Refused(Box::new(told())), INTERVAL, true),
        (
            || StatusError::Forbidden(Box::new(told())),
            REST_OF_ALL,
            true,
        ),
    ];
    for (how, rests, again) in ways {
        let mut node = Node::new();
        let mut statuses = node.start();
        node.prepare("a", true);
        node.board.fails(Some(how));
        let pause = node.round(&mut statuses, 15).await;
        assert_eq!(pause, rests, "{:?}", how());
        node.board.fails(None);
        if rests == INTERVAL {
            node.round(&mut statuses, 15).await;
            assert_eq!(node.board.calls().1, 0, "{:?}", how());
        }
        node.round(&mut statuses, REST.as_secs()).await;
        assert_eq!(node.board.calls().1 == 1, again, "{:?}", how());
    }
}

#[tokio::test]
async fn a_share_of_which_nothing_was_seen_keeps_what_is_said_of_it() {
    let mut node = Node::new();
    let mut statuses = node.start();
    let record = node.prepare("a", true);
    node.run(&record, 10 * GIB);
    node.round(&mut statuses, 15).await;
    assert_eq!(node.board.said("a"), NEAR);
    *node.cards.away.lock().unwrap() = true;
    node.round(&mut statuses, 100).await;
    *node.cards.away.lock().unwrap() = false;
    let (_, share) = record.devices[0].cdi_id.split_once('=').unwrap();
    let file = node.path("limits").join(format!("{share}.limit"));
    fs::remove_file(&file).unwrap();
    fs::write(&file, "{").unwrap();
    node.round(&mut statuses, 100).await;
    assert_eq!(node.board.said("a"), NEAR);
    assert_eq!(node.board.calls().1, 1);
}

#[tokio::test]
async fn a_claim_that_is_unprepared_is_forgotten() {
    let mut node = Node::new();
    let mut statuses = node.start();
    let record = node.prepare("a", true);
    node.round(&mut statuses, 15).await;
    node.journal().remove(&record.claim.uid).unwrap();
    node.round(&mut statuses, 15).await;
    assert_eq!(statuses.claims.len(), 0);
    let told: BTreeSet<_> = node.board.0.lock().unwrap().says.keys().cloned().collect();
    assert_eq!(
        told,
        [record.claim.uid].into(),
        "the API server removes what is deallocated"
    );
}
