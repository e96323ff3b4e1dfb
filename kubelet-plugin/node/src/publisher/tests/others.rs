//! What others do to the slices: the kubelet, other writers, the API server itself.

use tessera_sharing::ConsumableShares;

use super::running::shared;
use super::*;

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
async fn a_server_without_sharing_gets_the_devices_as_they_are_without_it_at_once() {
    let server = Server::default();
    server.strip(|slice| {
        for device in slice.spec.devices.iter_mut().flatten() {
            device.allow_multiple_allocations = None;
            for capacity in device.capacity.iter_mut().flat_map(|all| all.values_mut()) {
                capacity.request_policy = None;
            }
        }
    });
    let shared = shared(8, ConsumableShares::Memory);
    assert_eq!(shared.shareable(), 8);
    let mut running = Running::start(server, Some(shared));
    running.reaches(published(1, 8)).await;
    running.assert_stored(&offer(8));
    assert_eq!(running.server.writes(), 1);
    sleep(LONG).await;
    assert_eq!(running.server.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_everything_is_asked_once_whether_it_does() {
    let mut running = Running::start(Server::default(), Some(shared(8, ConsumableShares::Memory)));
    running.reaches(published(1, 8)).await;
    let once = [Call::List, Call::Rehearse, Call::Create];
    assert_eq!(running.server.calls()[..3], once);
    running.server.wipe();
    running.settle().await;
    running.assert_stored(&shared(8, ConsumableShares::Memory));
    let rehearsals = running.server.calls().into_iter();
    assert_eq!(rehearsals.filter(|call| *call == Call::Rehearse).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_dry_run_shows_by_the_write_what_it_keeps() {
    let server = Server::default();
    server.refuse_dry_runs();
    server.strip(|slice| {
        for device in slice.spec.devices.iter_mut().flatten() {
            device.allow_multiple_allocations = None;
        }
    });
    let mut running = Running::start(server, Some(shared(8, ConsumableShares::Memory)));
    running.reaches(published(1, 8)).await;
    running.assert_stored(&offer(8));
    assert_eq!(running.server.writes(), 2);
}
