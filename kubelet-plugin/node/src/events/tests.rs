use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tessera_claim::ClaimRef;
use tessera_prepare::notice::Action;
use tessera_prepare::reason::Reason;

use super::*;
use crate::testing::api::Api;
use crate::testing::claim;

/// What was written, as object and note; or nothing while it is away.
#[derive(Debug, Default)]
struct Wall {
    posted: Mutex<Vec<(String, String)>>,
    away: AtomicBool,
}

impl Board for Arc<Wall> {
    async fn post(&self, about: &About, notice: &Notice) -> Result<(), PostError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(PostError::Silent);
        }
        let about = match about {
            About::Claim(claim) => format!("claim {}", claim.name),
            About::Pod { pod, .. } => format!("pod {}", pod.name),
            About::Node => "node".to_owned(),
        };
        let mut posted = self.posted.lock().unwrap();
        posted.push((about, notice.note.clone()));
        Ok(())
    }
}

struct Bench {
    api: Arc<Api>,
    wall: Arc<Wall>,
    notices: Notices,
    metrics: EventMetrics,
    telling: Telling,
}

fn bench() -> Bench {
    let (api, wall) = (Arc::<Api>::default(), Arc::<Wall>::default());
    let (notices, inbox) = Notices::open();
    let metrics = EventMetrics::default();
    let telling = Teller::new(inbox, api.clone(), wall.clone(), metrics.clone()).start();
    Bench {
        api,
        wall,
        notices,
        metrics,
        telling,
    }
}

impl Bench {
    fn fail(&self, claim: &ClaimRef, text: &str) {
        self.notices.tell(Happening::Failed {
            claim,
            action: Action::Prepare,
            reason: Reason::GpuHeld,
            text,
        });
    }

    /// What had been written when everything was told.
    async fn end(self) -> Vec<(String, String)> {
        drop(self.notices);
        let Telling(task) = self.telling;
        task.await.unwrap();
        self.wall.posted.lock().unwrap().clone()
    }
}

fn reserve(api: &Api, name: &str, pods: usize) {
    api.allocate(name, &[0]);
    let mut claims = api.claims.lock().unwrap();
    let status = claims.get_mut(name).unwrap().status.as_mut().unwrap();
    let users = (0..pods).map(|pod| {
        let user = json!({"resource": "pods", "name": format!("pod{pod}"), "uid": pod.to_string()});
        serde_json::from_value(user).unwrap()
    });
    status.reserved_for = Some(users.collect());
}

#[tokio::test(start_paused = true)]
async fn the_claim_and_some_of_its_pods_are_told_and_a_gone_claim_alone() {
    let bench = bench();
    reserve(&bench.api, "a", 1);
    reserve(&bench.api, "crowd", 256);
    bench.fail(&claim("a"), "first");
    bench.fail(&claim("gone"), "second");
    bench.fail(&claim("crowd"), "third");
    let told = bench.end().await;
    let about: Vec<&str> = told.iter().map(|(about, _)| about.as_str()).collect();
    assert_eq!(
        about[..5],
        [
            "claim a",
            "pod pod0",
            "claim gone",
            "claim crowd",
            "pod pod0"
        ]
    );
    assert_eq!(about.len(), 4 + PODS_TOLD);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_the_oldest_go_and_nobody_waits() {
    let bench = bench();
    bench.wall.away.store(true, Ordering::Relaxed);
    bench.fail(&claim("gone"), "in hand");
    tokio::task::yield_now().await;
    sleep(FIRST_PAUSE).await;
    let more = 10;
    for number in 0..QUEUE + more {
        bench.fail(&claim("gone"), &number.to_string());
    }
    sleep(Duration::from_mins(5)).await;
    bench.wall.away.store(false, Ordering::Relaxed);
    let metrics = bench.metrics.clone();
    let told = bench.end().await;
    let notes: Vec<String> = told.into_iter().map(|(_, note)| note).collect();
    let kept = (more..QUEUE + more).map(|number| number.to_string());
    let wanted: Vec<String> = std::iter::once("in hand".to_owned()).chain(kept).collect();
    assert_eq!(notes, wanted);
    let count = |fate| metrics.0.get_or_create(&Fate { fate }).get();
    assert_eq!(count("dropped"), more as u64);
    assert_eq!(count("written"), (QUEUE + 1) as u64);
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_written_within_the_budget() {
    let bench = bench();
    let begun = Instant::now();
    let flood = budget::BURST + 4;
    for _ in 0..flood {
        bench.fail(&claim("gone"), "again");
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.end().await.len(), flood as usize);
    assert!(begun.elapsed() >= budget::REFILL * 3);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_plugin_does_not_wait_for_an_api_server_that_is_away() {
    let bench = bench();
    bench.wall.away.store(true, Ordering::Relaxed);
    bench.fail(&claim("gone"), "too late");
    drop(bench.notices);
    let begun = Instant::now();
    bench.telling.finish().await;
    assert_eq!(begun.elapsed(), LAST_WORDS);
}
