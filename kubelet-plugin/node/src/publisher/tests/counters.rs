//! Offers with counters, on servers that keep them and on servers that do not.

use tessera_device::Inventory;
use tessera_device::mig::MigMode;
use tessera_device::testing::driver;
use tessera_offer::{MadeDevices, partitions};
use tessera_sharing::ConsumableShares;

use super::*;
use crate::testing::cutting::h100;

/// Two GPUs, each as a whole and as every MIG device that can be made of it.
fn cut_when_needed() -> Offer {
    let gpus = (0..2).map(|minor| h100(minor, MigMode::Off)).collect();
    let inventory = Inventory::new(driver("580"), gpus).unwrap();
    let node = offer(0).node().clone();
    let offer = partitions(
        &inventory,
        &MadeDevices::default(),
        &node,
        "gpu.nvidia.com",
        ConsumableShares::Disabled,
    );
    assert_eq!(offer.devices().count(), 52);
    offer
}

/// A server that keeps no counters. It must not be sent a device without its counters either.
fn without_counters() -> Server {
    let server = Server::default();
    server.strip(|slice| {
        slice.spec.shared_counters = None;
        for device in slice.spec.devices.iter_mut().flatten() {
            assert!(device.consumes_counters.is_none(), "{device:?}");
        }
    });
    server
}

fn assert_whole(server: &Server) {
    let slices = server.slices();
    let devices = slices
        .iter()
        .flat_map(|slice| slice.spec.devices.iter().flatten());
    let names: Vec<&str> = devices.map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["gpu-0", "gpu-1"]);
    // All that a pool says it has is there.
    let count = slices[0].spec.pool.resource_slice_count;
    assert_eq!(usize::try_from(count).unwrap(), slices.len());
}

#[tokio::test(start_paused = true)]
async fn a_server_without_counters_never_has_two_devices_that_overlap() {
    let running = Running::start(without_counters(), Some(cut_when_needed()));
    running.settle().await;
    assert_eq!(running.state(), published(1, 2));
    assert_whole(&running.server);
    let calls = [Call::List, Call::Rehearse, Call::List, Call::Create];
    assert_eq!(running.server.calls(), calls);
    sleep(LONG).await;
    assert_eq!(running.server.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_on_a_server_without_counters_writes_nothing_that_is_there() {
    let server = without_counters();
    let mut first = Running::start(server.clone(), Some(cut_when_needed()));
    first.settle().await;
    first.stop.cancel();
    timeout(LONG, &mut first.task).await.unwrap().unwrap();
    let second = Running::start(server, Some(cut_when_needed()));
    second.settle().await;
    assert_whole(&second.server);
    assert_eq!(second.server.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_has_learnt_to_keep_is_offered_by_the_next_process() {
    let server = without_counters();
    let mut old = Running::start(server.clone(), Some(cut_when_needed()));
    old.settle().await;
    old.stop.cancel();
    timeout(LONG, &mut old.task).await.unwrap().unwrap();
    server.strip(|_| {});
    let new = Running::start(server, Some(cut_when_needed()));
    new.settle().await;
    new.assert_stored(&cut_when_needed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_dry_run_has_no_devices_that_overlap_either() {
    let server = without_counters();
    server.refuse_dry_runs();
    let running = Running::start(server, Some(cut_when_needed()));
    running.settle().await;
    assert_whole(&running.server);
    assert_eq!(running.server.writes(), 2);
}
