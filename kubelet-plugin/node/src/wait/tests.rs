use std::future::{pending, ready};

use tessera_prepare::notice::Notice;
use tokio::time::timeout;

use super::*;
use crate::events::Inbox;
use crate::testing::claim;

struct Bench {
    registry: Registry,
    waits: Waits,
    inbox: Inbox,
    hurry: CancellationToken,
}

fn bench() -> Bench {
    let mut registry = Registry::default();
    let (notices, inbox) = Notices::open();
    let hurry = CancellationToken::new();
    let waits = Waits::new(&mut registry, "gpu.nvidia.com", notices, hurry.clone());
    Bench {
        registry,
        waits,
        inbox,
        hurry,
    }
}

impl Bench {
    async fn during<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        self.waits
            .during(Operation::prepare, &claim("a"), driver, work)
            .await
    }

    /// The lines of the metrics page about waits that are neither comments nor buckets.
    fn metrics(&self) -> Vec<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let figures = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains("_bucket"));
        let labels = r#"{driver="gpu.nvidia.com",operation="prepare",reason="driver"}"#;
        figures.map(|line| line.replace(labels, "")).collect()
    }

    fn told(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.inbox.waiting()).collect()
    }
}

fn driver() -> WaitingFor {
    WaitingFor::Driver {
        why: "no library".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_there_at_once_leaves_no_trace() {
    let mut bench = bench();
    assert_eq!(bench.during(ready(7)).await, Ok(7));
    assert_eq!(bench.metrics(), [""; 0]);
    assert_eq!(bench.told(), []);
}

#[tokio::test(start_paused = true)]
async fn a_short_wait_is_measured_and_not_told() {
    let mut bench = bench();
    bench.during(sleep(TELL_AFTER / 2)).await.unwrap();
    assert_eq!(
        bench.metrics(),
        [
            "tessera_wait_seconds_sum 2.5",
            "tessera_wait_seconds_count 1",
            "tessera_waits 0"
        ]
    );
    assert_eq!(bench.told(), []);
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_told_once_and_counts_while_it_lasts() {
    let mut bench = bench();
    let given_up = timeout(TELL_AFTER * 4, async {
        let long = bench.during(pending::<()>());
        let look = async {
            sleep(TELL_AFTER * 3).await;
            assert!(bench.metrics().contains(&"tessera_waits 1".to_owned()));
        };
        tokio::join!(long, look)
    });
    given_up.await.unwrap_err();
    assert!(bench.metrics().contains(&"tessera_waits 0".to_owned()));
    let told = bench.told();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].reason, "WaitingForDriver");
    assert!(told[0].note.contains("no library"), "{}", told[0].note);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_plugin_and_says_what_it_waited_for() {
    let bench = bench();
    bench.hurry.cancel();
    let error = bench.during(pending::<()>()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("no library") && text.contains("being stopped"),
        "{text}"
    );
    // What is there all the same is taken.
    assert_eq!(bench.during(ready(7)).await, Ok(7));
}
