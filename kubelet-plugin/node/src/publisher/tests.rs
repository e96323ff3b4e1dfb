//! The publisher against an API server in memory, in the tests' own time.

mod counters;
mod faults;
mod others;
mod running;
mod server;

use tokio::time::sleep;

use self::running::{LONG, Running, offer, published};
use self::server::{Call, Fault, Server};
use super::*;

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
