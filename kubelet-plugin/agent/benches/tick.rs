//! What a tick costs the agent itself, on cards whose containers do nothing. The driver is a stand-in that answers at once,
//! so its answers are not in it.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panic, and divan makes functions of its own"
)]

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use divan::Bencher;
use tempfile::TempDir;
use tessera_agent::mover::Mover;
use tessera_device::{Bytes, GpuUuid};
use tessera_kubelet_plugin::journal::{Journal, Records as _};
use tessera_kubelet_plugin::locks::GpuLocks;
use tessera_kubelet_plugin::memory_limits::{
    Card, Cgroups, KnownPromises, LimitOperations, SetError, Written,
};
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::testing::share_record;
use tessera_sharing::Measured;
use tokio::runtime::{Builder, Runtime};

const GIB: u64 = 1 << 30;
const SHARES: u32 = 64;

/// Longer than what was read is not kept after a change.
const SETTLING: Duration = Duration::from_millis(300);

fn main() {
    divan::main();
}

/// Every container has half of its limit, which is its guarantee.
struct Idle;

impl LimitOperations for Idle {
    fn look(&self, _: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError> {
        let measured = Measured {
            limit: Some(Bytes(GIB)),
            used: Bytes(GIB / 2),
        };
        Ok(Card {
            memory: Bytes(140 * GIB),
            reserved: Bytes(0),
            containers: cgroups.iter().map(|it| (it.clone(), measured)).collect(),
        })
    }

    fn limit(&self, _: &GpuUuid, _: &str, _: Bytes) -> Result<(), SetError> {
        panic!("idle shares keep their limits")
    }
}

/// A node with 64 shares on so many cards, and its agent.
fn node(cards: u32) -> (TempDir, Mover<Idle, KnownPromises>) {
    // A tmpfs, as records and notes lie on.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = |name: &str| directory.path().join(name);
    let journal = Journal::open(&path("claims"), CdiKind::claim()).unwrap();
    fs::create_dir(path("limits")).unwrap();
    for number in 0..SHARES {
        let name = format!("claim-{number}");
        let mut record = share_record(&name, number % cards, &[("s", 1)]);
        let device = &mut record.devices[0];
        (device.memory_limit, device.memory_ceiling) = (Some(Bytes(GIB)), Some(Bytes(GIB)));
        let (_, share) = device.cdi_id.split_once('=').unwrap();
        let note = format!(
            r#"{{"gpu":"{}","bytes":{GIB},"cgroup":"/kubepods/{name}"}}"#,
            device.gpu
        );
        fs::write(path("limits").join(format!("{share}.limit")), note).unwrap();
        journal.write(&record).unwrap();
    }
    thread::sleep(SETTLING);
    let notes = Written::new(path("limits"), Cgroups(path("cgroup")));
    let locks = GpuLocks::at(&path("locks"));
    let mover = Mover::new(Arc::new(Idle), KnownPromises::of(journal), notes, locks);
    (directory, mover)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[divan::bench(args = [1, 8])]
fn of_64_idle_shares(bencher: Bencher<'_, '_>, cards: u32) {
    let (_directory, mover) = node(cards);
    let runtime = runtime();
    let tick = || {
        let seen = runtime.block_on(mover.tick()).unwrap();
        assert_eq!(seen.len(), usize::try_from(cards).unwrap());
    };
    tick();
    bencher.bench_local(tick);
}
