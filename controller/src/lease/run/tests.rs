use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::lease::Stored;

/// A store in memory that can be told to fail or to hang.
#[derive(Default)]
struct Memory {
    lease: Mutex<(u64, Option<Stored>)>,
    mood: Mutex<Mood>,
}

#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Fine,
    Refusing,
    Hanging,
}

impl Memory {
    fn become_(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn holder(&self) -> Option<String> {
        self.lease.lock().unwrap().1.as_ref()?.record.holder.clone()
    }

    async fn pass(&self) -> Result<(), StoreError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Fine => Ok(()),
            Mood::Refusing => {
                let name = "n/l".to_owned();
                Err(StoreError::Incomplete {
                    name,
                    field: "resourceVersion",
                })
            }
            Mood::Hanging => std::future::pending().await,
        }
    }
}

impl LeaseStore for Memory {
    async fn read(&self) -> Result<Option<Stored>, StoreError> {
        self.pass().await?;
        Ok(self.lease.lock().unwrap().1.clone())
    }

    async fn write(&self, version: Option<&str>, record: &Record) -> Result<Stored, StoreError> {
        self.pass().await?;
        let mut lease = self.lease.lock().unwrap();
        if lease.1.as_ref().map(|stored| stored.version.as_str()) != version {
            return Err(StoreError::Raced);
        }
        lease.0 += 1;
        let stored = Stored {
            version: lease.0.to_string(),
            record: record.clone(),
        };
        lease.1 = Some(stored.clone());
        Ok(stored)
    }
}

fn params(identity: &str) -> Params {
    let [duration, deadline, retry] = [15, 10, 2].map(Duration::from_secs);
    Params::new(identity.to_owned(), duration, deadline, retry).unwrap()
}

/// Waits until the leadership is of another kind and returns it.
async fn next(seen: &mut watch::Receiver<Leadership>) -> Leadership {
    seen.changed().await.unwrap();
    *seen.borrow_and_update()
}

#[tokio::test(start_paused = true)]
async fn a_lone_contender_leads_at_once_renews_and_releases_at_shutdown() {
    let store = Memory::default();
    let (sender, mut seen) = watch::channel(Leadership::Unknown);
    let stop = CancellationToken::new();
    let params = params("one");
    let observe = async {
        assert!(next(&mut seen).await.leads(Instant::now()));
        tokio::time::sleep(Duration::from_mins(1)).await;
        // Renewed all the time, without waking whoever waits for a change.
        assert!(seen.borrow().leads(Instant::now()) && !seen.has_changed().unwrap());
        assert_eq!(store.holder().as_deref(), Some("one"));
        stop.cancel();
    };
    let (end, ()) = tokio::join!(run(&store, &params, &sender, &stop), observe);
    assert_eq!(end, End::Shutdown);
    assert_eq!(store.holder(), None);
    assert_eq!(*sender.borrow(), Leadership::Following);
}

#[tokio::test(start_paused = true)]
async fn a_follower_takes_over_within_a_look_after_a_release() {
    let store = Memory::default();
    let (first, mut first_seen) = watch::channel(Leadership::Unknown);
    let (second, mut second_seen) = watch::channel(Leadership::Unknown);
    let (stop_first, stop_second) = (CancellationToken::new(), CancellationToken::new());
    let (one, two) = (params("one"), params("two"));
    let observe = async {
        next(&mut first_seen).await;
        assert_eq!(next(&mut second_seen).await, Leadership::Following);
        stop_first.cancel();
        let asked = Instant::now();
        assert!(next(&mut second_seen).await.leads(Instant::now()));
        assert!(asked.elapsed() <= Duration::from_secs(2));
        stop_second.cancel();
    };
    tokio::join!(
        run(&store, &one, &first, &stop_first),
        run(&store, &two, &second, &stop_second),
        observe
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_loses_at_its_deadline_whether_the_server_refuses_or_hangs() {
    for mood in [Mood::Refusing, Mood::Hanging] {
        let store = Memory::default();
        let (sender, mut seen) = watch::channel(Leadership::Unknown);
        let stop = CancellationToken::new();
        let params = params("one");
        let observe = async {
            next(&mut seen).await;
            store.become_(mood);
            let until = match *seen.borrow() {
                Leadership::Leading { until } => until,
                other => panic!("{other:?}"),
            };
            assert_eq!(next(&mut seen).await, Leadership::Following);
            assert!(Instant::now() <= until + Duration::from_millis(1));
        };
        let (end, ()) = tokio::join!(run(&store, &params, &sender, &stop), observe);
        assert_eq!(end, End::Lost(Loss::Expired));
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_even_when_the_server_hangs() {
    let store = Memory::default();
    let (sender, mut seen) = watch::channel(Leadership::Unknown);
    let stop = CancellationToken::new();
    let params = params("one");
    let observe = async {
        next(&mut seen).await;
        store.become_(Mood::Hanging);
        stop.cancel();
    };
    let (end, ()) = tokio::join!(run(&store, &params, &sender, &stop), observe);
    assert_eq!(end, End::Shutdown);
}
