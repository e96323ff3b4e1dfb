//! The publisher against an API server in memory, in the tests' own time.

mod server;

use std::path::Path;
use std::sync::{Arc, Mutex};

use tessera_device::{
    Architecture, Bytes, CudaVersion, DriverFacts, DriverVersion, Gpu, Inventory,
};
use tessera_offer::{Node, plan};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use server::{Call, Fault, Server};

const DRIVER: &str = "gpu.nvidia.com";

/// A bound in the tests' own time, which passes at once where nobody works.
const LONG: Duration = Duration::from_hours(1);

fn offer(gpus: u32) -> Offer {
    let gpu = |minor: u32| Gpu {
        uuid: format!("GPU-{minor:08x}-0000-4000-8000-000000000000")
            .parse()
            .unwrap(),
        minor,
        pci: "0000:1b:00.0".parse().unwrap(),
        product_name: "NVIDIA H100 80GB HBM3".to_owned(),
        brand: "Nvidia".to_owned(),
        architecture: Architecture::Hopper,
        compute_capability: CudaVersion { major: 9, minor: 0 },
        memory: Bytes::from_mib(81559),
        addressing_mode: None,
        pcie_root: None,
        numa_node: Some(0),
    };
    let driver = DriverFacts {
        version: DriverVersion::new("580.95.05"),
        cuda: CudaVersion {
            major: 13,
            minor: 0,
        },
    };
    let node = Node {
        name: "node-a".to_owned(),
        uid: "uid-a".to_owned(),
    };
    plan(
        &Inventory::new(driver, (0..gpus).map(gpu).collect()).unwrap(),
        &node,
        DRIVER,
    )
}

/// Hears everything.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn note(&self, entry: String) {
        self.0.lock().unwrap().push(entry);
    }
}

impl Observer for Diary {
    fn published(&self, writes: usize) {
        self.note(format!("published {writes}"));
    }

    fn write_failed(&self, reason: &'static str) {
        self.note(format!("failed {reason}"));
    }

    fn fields_dropped(&self, fields: &BTreeSet<FieldPath>) {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        self.note(format!("dropped {}", fields.join(",")));
    }
}

struct Running {
    server: Server,
    diary: Diary,
    offers: watch::Sender<Option<Offer>>,
    states: watch::Receiver<PublishState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    lock: Option<tempfile::TempDir>,
}

impl Running {
    fn start(server: Server, first: Option<Offer>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut running = Self::beside(server, first, directory.path());
        running.lock = Some(directory);
        running
    }

    /// A publisher that takes turns with others that have their lock in `directory`.
    fn beside(server: Server, first: Option<Offer>, directory: &Path) -> Self {
        let turns = Turns::at(&directory.join("publisher.lock"));
        let (offers, receiver) = watch::channel(first);
        let diary = Diary::default();
        let (publisher, states) = Publisher::new(server.clone(), diary.clone(), receiver, turns);
        let stop = CancellationToken::new();
        Self {
            server,
            diary,
            offers,
            states,
            task: tokio::spawn(publisher.run(stop.clone())),
            stop,
            lock: None,
        }
    }

    /// Waits until nothing is left to do at this moment.
    async fn settle(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    async fn reaches(&mut self, wanted: PublishState) {
        let reached = self.states.wait_for(|state| *state == wanted);
        timeout(LONG, reached)
            .await
            .expect("the state is reached")
            .unwrap();
    }

    fn state(&self) -> PublishState {
        self.states.borrow().clone()
    }

    fn assert_stored(&self, offer: &Offer) {
        assert_eq!(reconcile(offer, &self.server.slices()), []);
    }
}

fn published(generation: i64, devices: usize) -> PublishState {
    PublishState::Published {
        generation,
        devices,
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_the_kubelet_has_registered_the_driver() {
    let running = Running::start(Server::default(), None);
    sleep(LONG).await;
    assert_eq!(running.server.calls(), []);
    assert_eq!(running.state(), PublishState::NotYet);
}

#[tokio::test(start_paused = true)]
async fn an_offer_is_published_by_one_list_and_one_create_without_a_pause() {
    let running = Running::start(Server::default(), None);
    sleep(LONG).await;
    running.offers.send_replace(Some(offer(8)));
    running.settle().await;
    assert_eq!(running.server.calls(), [Call::List, Call::Create]);
    assert_eq!(running.state(), published(1, 8));
    running.assert_stored(&offer(8));
}

#[tokio::test(start_paused = true)]
async fn a_node_without_gpus_is_published_too() {
    let mut running = Running::start(Server::default(), Some(offer(0)));
    running.reaches(published(1, 0)).await;
    assert_eq!(running.server.slices().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wiped_slices_are_back_at_once_every_time() {
    let mut running = Running::start(Server::default(), Some(offer(200)));
    running.reaches(published(1, 200)).await;
    for _ in 0..3 {
        sleep(LONG).await;
        running.server.wipe();
        running.settle().await;
        running.assert_stored(&offer(200));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wipe_after_the_registration_was_answered_is_noticed() {
    let mut running = Running::start(Server::default(), Some(offer(8)));
    running.reaches(published(1, 8)).await;
    sleep(LONG).await;
    // The kubelet registers the plugin, which finds its slice in place, and only then wipes.
    running.offers.send_replace(Some(offer(8)));
    running.settle().await;
    running.server.wipe();
    running.settle().await;
    running.assert_stored(&offer(8));
}

#[tokio::test(start_paused = true)]
async fn what_another_writer_changes_is_put_right_and_its_own_slices_are_left_alone() {
    let mut foreign = offer(1).slices(1).remove(0);
    foreign.metadata.name = Some("theirs".to_owned());
    "other.example.com".clone_into(&mut foreign.spec.driver);
    let server = Server::default();
    server.put(foreign);
    let mut running = Running::start(server, Some(offer(8)));
    running.reaches(published(1, 8)).await;
    let theirs = running.server.slices().pop().unwrap();

    let mut ours = running.server.slices().remove(0);
    ours.spec.devices = None;
    running.server.put(ours);
    let mut leftover = offer(3).slices(1).remove(0);
    leftover.metadata.name = Some("leftover".to_owned());
    running.server.put(leftover);
    running.settle().await;
    running.assert_stored(&offer(8));
    assert_eq!(running.server.slices().len(), 2);
    assert_eq!(running.server.slices().pop().unwrap(), theirs);
}

#[tokio::test(start_paused = true)]
async fn a_new_offer_replaces_the_old_one_at_once() {
    let mut running = Running::start(Server::default(), Some(offer(8)));
    running.reaches(published(1, 8)).await;
    running.offers.send_replace(Some(offer(7)));
    running.settle().await;
    assert_eq!(running.state(), published(1, 7));
    running.offers.send_replace(Some(offer(129)));
    running.settle().await;
    assert_eq!(running.state(), published(2, 129));
    running.assert_stored(&offer(129));
}

#[tokio::test(start_paused = true)]
async fn an_idle_hour_has_no_write_and_one_list_every_ten_minutes() {
    let mut running = Running::start(Server::default(), Some(offer(200)));
    running.reaches(published(1, 200)).await;
    let before = running.server.calls().len();
    sleep(LONG).await;
    running.settle().await;
    let calls = running.server.calls().split_off(before);
    assert_eq!(calls, [Call::List; 6]);
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_is_withdrawn_stays_stored_and_is_not_defended() {
    let mut running = Running::start(Server::default(), Some(offer(8)));
    running.reaches(published(1, 8)).await;
    running.offers.send_replace(None);
    running.reaches(PublishState::NotYet).await;
    running.assert_stored(&offer(8));
    let before = running.server.calls().len();
    running.server.wipe();
    sleep(LONG).await;
    assert_eq!(running.server.calls().len(), before);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_publisher_leaves_the_slices() {
    let mut running = Running::start(Server::default(), Some(offer(8)));
    running.reaches(published(1, 8)).await;
    running.stop.cancel();
    timeout(LONG, &mut running.task)
        .await
        .expect("it ends")
        .unwrap();
    running.assert_stored(&offer(8));
    assert_eq!(running.server.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_stops_in_the_middle_of_a_call_and_when_nobody_offers_any_more() {
    let server = Server::default();
    server.at_call(0, Fault::Hang);
    let mut running = Running::start(server, Some(offer(8)));
    running.settle().await;
    running.stop.cancel();
    running.settle().await;
    assert!(running.task.is_finished());

    running = Running::start(Server::default(), None);
    let Running { offers, task, .. } = running;
    drop(offers);
    timeout(LONG, task).await.expect("it ends").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_opened_again_and_what_it_missed_is_put_right() {
    let mut running = Running::start(Server::default(), Some(offer(8)));
    running.reaches(published(1, 8)).await;
    running.server.end_watches();
    running.server.wipe_unseen();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.server.opened(), 2);
    running.assert_stored(&offer(8));
}

#[tokio::test(start_paused = true)]
async fn a_wipe_is_noticed_after_a_registration_though_the_former_watch_hangs_or_waits() {
    for ends in [false, true] {
        let mut running = Running::start(Server::default(), Some(offer(8)));
        running.reaches(published(1, 8)).await;
        for _ in 0..20 {
            // Broken again and again, the next watch would have to wait for half a minute.
            running.server.end_watches();
            sleep(Duration::from_secs(if ends { 1 } else { 60 })).await;
        }
        running.server.forget_watches();
        running.offers.send_replace(Some(offer(8)));
        running.settle().await;
        running.server.wipe();
        running.settle().await;
        running.assert_stored(&offer(8));
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_always_end_do_not_keep_the_api_server_busy() {
    let mut running = Running::start(Server::default(), Some(offer(8)));
    running.reaches(published(1, 8)).await;
    for _ in 0..LONG.as_secs() {
        running.server.end_watches();
        sleep(Duration::from_secs(1)).await;
    }
    assert!(running.server.opened() < 300, "{}", running.server.opened());
    assert_eq!(running.server.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_no_event_told_is_found_by_the_full_comparison() {
    let mut running = Running::start(Server::default(), Some(offer(8)));
    running.reaches(published(1, 8)).await;
    running.server.wipe_unseen();
    sleep(FULL_COMPARE + Duration::from_millis(1)).await;
    running.assert_stored(&offer(8));
}

#[tokio::test(start_paused = true)]
async fn after_any_fault_at_any_call_the_slices_are_those_of_the_offer_and_stay_so() {
    let (first_offer, second_offer) = (offer(129), offer(257));
    for fault in [
        Fault::Refuse,
        Fault::Conflict,
        Fault::LoseAnswer,
        Fault::Hang,
        Fault::WipeBefore,
        Fault::WipeAfter,
    ] {
        for first in 0..8 {
            for second in [first + 1, first + 3] {
                let server = Server::default();
                server.put({
                    let mut leftover = offer(3).slices(4).remove(0);
                    leftover.metadata.name = Some("leftover".to_owned());
                    leftover
                });
                server.at_call(first, fault);
                server.at_call(second, fault);
                let running = Running::start(server, Some(first_offer.clone()));
                running.settle().await;
                running.offers.send_replace(Some(second_offer.clone()));
                sleep(Duration::from_mins(5)).await;
                running.assert_stored(&second_offer);
                assert!(matches!(running.state(), PublishState::Published { .. }));
                let writes = running.server.writes();
                sleep(FULL_COMPARE).await;
                assert_eq!(
                    running.server.writes(),
                    writes,
                    "{fault:?} at {first}, {second}"
                );
            }
        }
    }
}

/// A life of the publisher in which it creates, replaces and deletes: another process has left more
/// slices, and one of them is altered. It dies at this call, if there is one, and another follows.
async fn live(death: Option<(usize, Fault)>) -> (Server, bool) {
    let server = Server::default();
    for (at, mut slice) in offer(257).slices(4).into_iter().enumerate() {
        if at == 0 {
            slice.spec.devices = None;
        } else {
            slice.metadata.name = Some(format!("leftover-{at}"));
        }
        server.put(slice);
    }
    if let Some((call, fault)) = death {
        server.at_call(call, fault);
    }
    let doomed = Running::start(server.clone(), Some(offer(129)));
    doomed.settle().await;
    doomed.task.abort();
    let died = death.is_some_and(|(call, _)| server.calls().len() > call);
    if died {
        let next = Running::start(server.clone(), Some(offer(129)));
        next.settle().await;
        assert!(matches!(next.state(), PublishState::Published { .. }));
        next.assert_stored(&offer(129));
        next.task.abort();
    }
    (server, died)
}

#[tokio::test(start_paused = true)]
async fn wherever_the_publisher_dies_the_next_one_ends_up_where_an_unharmed_one_does() {
    // A pool that was left half written is written anew as a later generation.
    let specs = |server: &Server| -> Vec<_> {
        let mut slices = server.slices();
        for slice in &mut slices {
            slice.spec.pool.generation = 0;
        }
        let names_and_specs = slices.into_iter();
        names_and_specs
            .map(|slice| (slice.metadata.name, slice.spec))
            .collect()
    };
    let (unharmed, _) = live(None).await;
    let mut points = 0;
    for fault in [Fault::Hang, Fault::HangAfter] {
        for call in 0.. {
            let (server, died) = live(Some((call, fault))).await;
            if !died {
                break;
            }
            points += 1;
            let same = specs(&server) == specs(&unharmed);
            assert!(same, "{fault:?} at call {call}");
        }
    }
    println!("{points} points");
    assert!(points >= 8, "the calls were not reached: {points}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_down_is_asked_ever_less_often_and_found_again() {
    let server = Server::default();
    server.set_down(true);
    let mut running = Running::start(server, Some(offer(8)));
    sleep(LONG).await;
    let calls = running.server.calls().len();
    assert!((120..300).contains(&calls), "{calls}");
    let PublishState::Failing { reason } = running.state() else {
        panic!("{:?}", running.state());
    };
    assert!(reason.contains("gpu.nvidia.com on node node-a"), "{reason}");
    assert_eq!(running.diary.entries()[0], "failed unavailable");

    running.server.set_down(false);
    sleep(Duration::from_secs(30)).await;
    running.reaches(published(1, 8)).await;
}

#[tokio::test(start_paused = true)]
async fn a_fight_with_another_writer_slows_down() {
    let server = Server::default();
    server.meddle(|slice| slice.spec.devices = None);
    let running = Running::start(server, Some(offer(8)));
    sleep(LONG).await;
    let writes = running.server.writes();
    assert!((100..300).contains(&writes), "{writes}");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_object_of_our_name_is_left_alone_and_named() {
    let mut foreign = offer(1).slices(1).remove(0);
    "other.example.com".clone_into(&mut foreign.spec.driver);
    let server = Server::default();
    server.put(foreign);
    let before = server.slices();
    let running = Running::start(server, Some(offer(8)));
    sleep(LONG).await;
    assert_eq!(running.server.slices(), before);
    let PublishState::Failing { reason } = running.state() else {
        panic!("{:?}", running.state());
    };
    assert!(reason.contains("node-a-gpu.nvidia.com-000"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn fields_that_the_server_drops_are_told_once_and_not_sent_for_ever() {
    let server = Server::default();
    server.strip(|slice| {
        for device in slice.spec.devices.iter_mut().flatten() {
            let attributes = device.attributes.as_mut().unwrap();
            attributes.remove("resource.kubernetes.io/numaNode");
        }
    });
    let mut running = Running::start(server, Some(offer(200)));
    running.reaches(published(1, 200)).await;
    sleep(LONG).await;
    assert_eq!(
        running.diary.entries(),
        [
            "dropped devices[].attributes[resource.kubernetes.io/numaNode]",
            "published 2",
        ]
    );
    assert_eq!(running.server.writes(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_the_later_one_writes_when_the_earlier_one_has_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::default();
    let mut old = Running::beside(server.clone(), Some(offer(2)), directory.path());
    old.reaches(published(1, 2)).await;
    let mut new = Running::beside(server.clone(), Some(offer(3)), directory.path());
    new.reaches(PublishState::Standby).await;
    assert!(new.state().is_published());
    sleep(Duration::from_mins(1)).await;
    old.assert_stored(&offer(2));

    old.stop.cancel();
    timeout(LONG, &mut old.task).await.unwrap().unwrap();
    new.reaches(published(1, 3)).await;
    new.assert_stored(&offer(3));
    assert!(
        !server.calls().contains(&Call::Delete),
        "the slices were never gone"
    );
}
