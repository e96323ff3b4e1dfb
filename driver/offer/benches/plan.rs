//! What it costs to decide what a node offers, and what is to be written for it.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panic, and divan makes functions of its own"
)]

use divan::{Bencher, black_box};
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_device::mig::{MigMode, MigState};
use tessera_device::testing::{driver, gpu, h100_profiles};
use tessera_device::{Gpu, Inventory};
use tessera_offer::{MadeDevices, Node, Offer, Write, partitions, reconcile};
use tessera_sharing::ConsumableShares;

const DRIVER: &str = "gpu.nvidia.com";

/// GPUs of the largest nodes that are common.
const GPUS: u32 = 8;

fn main() {
    divan::main();
}

fn node() -> Node {
    Node {
        name: "node-1".to_owned(),
        uid: "0c5cbc2e-1d0f-4a46-9b1c-3b1f0f5f7d11".to_owned(),
    }
}

/// H100s that can be cut into anything.
fn inventory(gpus: u32) -> Inventory {
    let whole = |minor| {
        let mut mig = MigState::empty(MigMode::Off);
        mig.profiles = h100_profiles();
        Gpu {
            mig: Some(mig),
            ..gpu(minor)
        }
    };
    Inventory::new(driver("580.95.05"), (0..gpus).map(whole).collect()).unwrap()
}

fn offer(inventory: &Inventory) -> Offer {
    let made = MadeDevices::default();
    partitions(
        inventory,
        &made,
        &node(),
        DRIVER,
        ConsumableShares::Disabled,
    )
}

/// What a server has stored of the offer.
fn stored(offer: &Offer) -> Vec<ResourceSlice> {
    let writes = reconcile(offer, &[]).into_iter();
    let slices = writes.map(|write| match write {
        Write::Create(slice) => *slice,
        other => panic!("nothing is there yet, but {other:?}"),
    });
    slices.collect()
}

/// Every GPU as all that it can be.
#[divan::bench]
fn all_placements_of_eight_gpus(bencher: Bencher<'_, '_>) {
    let inventory = inventory(GPUS);
    bencher.bench(|| offer(black_box(&inventory)));
}

/// What is to be written of that to a server that has nothing.
#[divan::bench]
fn first_writes(bencher: Bencher<'_, '_>) {
    let offer = offer(&inventory(GPUS));
    bencher.bench(|| reconcile(black_box(&offer), &[]));
}

/// What is to be written where all is stored already.
#[divan::bench]
fn no_writes(bencher: Bencher<'_, '_>) {
    let offer = offer(&inventory(GPUS));
    let stored = stored(&offer);
    bencher.bench(|| reconcile(black_box(&offer), black_box(&stored)));
}
