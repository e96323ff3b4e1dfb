use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Clock, Fate, Message, Reign, World};
use super::*;

const TIMES: [u64; 3] = [15, 10, 2];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn params(identity: &str) -> Params {
    let [duration, deadline, retry] = TIMES.map(seconds);
    Params::new(identity.to_owned(), duration, deadline, retry).unwrap()
}

fn held_by(holder: Option<&str>, version: &str) -> Stored {
    let record = Record {
        holder: holder.map(str::to_owned),
        duration: seconds(15),
        transitions: 7,
        acquired: None,
    };
    Stored {
        version: version.to_owned(),
        record,
    }
}

/// `me` sent a write at `sent` that succeeded at once.
fn leader(sent: Moment) -> Observed {
    let mut observed = Observed::default();
    observed.wrote(sent, sent, held_by(Some("me"), "1"));
    observed
}

#[test]
fn times_that_would_allow_two_leaders_are_refused() {
    let new = |duration, deadline, retry| {
        Params::new(
            String::new(),
            Duration::from_millis(duration),
            seconds(deadline),
            seconds(retry),
        )
    };
    assert!(new(15_000, 10, 2).is_ok());
    assert_eq!(
        new(500, 10, 2),
        Err(ParamsError::DurationNotStorable(Duration::from_millis(500)))
    );
    assert!(matches!(
        new(10_000, 10, 2),
        Err(ParamsError::DeadlineTooLong { .. })
    ));
    assert!(matches!(
        new(15_000, 10, 6),
        Err(ParamsError::RetryTooLong { .. })
    ));
    assert!(matches!(
        new(15_000, 10, 0),
        Err(ParamsError::RetryTooLong { .. })
    ));
}

#[test]
fn a_newcomer_looks_before_it_writes() {
    let step = decide(seconds(100), &Observed::default(), &params("me"));
    assert_eq!(step, Step::Read { by: seconds(105) });
}

#[test]
fn a_missing_lease_is_created() {
    let mut observed = Observed::default();
    observed.saw(seconds(1), None);
    let Step::Write {
        version: None,
        record,
        ..
    } = decide(seconds(1), &observed, &params("me"))
    else {
        panic!("the lease was not created");
    };
    assert_eq!(
        (record.holder.as_deref(), record.transitions),
        (Some("me"), 0)
    );
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let mut observed = Observed::default();
    observed.saw(seconds(1), Some(held_by(None, "5")));
    let step = decide(seconds(1), &observed, &params("me"));
    let Step::Write {
        version, record, ..
    } = step
    else {
        panic!("{step:?}")
    };
    assert_eq!((version.as_deref(), record.transitions), (Some("5"), 8));
}

#[test]
fn a_held_lease_is_taken_only_after_its_duration_without_a_change() {
    let mut observed = Observed::default();
    observed.saw(seconds(1), Some(held_by(Some("other"), "5")));
    for look in (3..16).step_by(2) {
        assert_eq!(
            decide(seconds(look), &observed, &params("me")),
            Step::Read {
                by: seconds(look + 5)
            }
        );
        observed.saw(seconds(look), Some(held_by(Some("other"), "5")));
    }
    assert_eq!(
        decide(seconds(15), &observed, &params("me")),
        Step::Wait { until: seconds(16) }
    );
    assert!(matches!(
        decide(seconds(16), &observed, &params("me")),
        Step::Write { .. }
    ));
    // A renewal in between starts the wait anew.
    observed.saw(seconds(16), Some(held_by(Some("other"), "6")));
    assert_eq!(
        decide(seconds(17), &observed, &params("me")),
        Step::Wait { until: seconds(18) }
    );
}

#[test]
fn a_holder_of_our_own_name_after_a_write_without_answer_is_confirmed_before_we_lead() {
    let mut observed = Observed::default();
    observed.saw(seconds(1), Some(held_by(Some("me"), "5")));
    assert_eq!(observed.leads_until(&params("me")), None);
    assert!(matches!(
        decide(seconds(1), &observed, &params("me")),
        Step::Write { .. }
    ));
}

#[test]
fn a_leadership_counts_from_when_its_write_was_sent_and_not_from_the_answer() {
    let mut observed = Observed::default();
    observed.wrote(seconds(10), seconds(14), held_by(Some("me"), "1"));
    assert_eq!(observed.leads_until(&params("me")), Some(seconds(20)));
}

#[test]
fn a_leader_renews_every_retry_period_and_keeps_the_record() {
    let observed = leader(seconds(10));
    assert_eq!(
        decide(seconds(10), &observed, &params("me")),
        Step::Wait { until: seconds(12) }
    );
    let step = decide(seconds(12), &observed, &params("me"));
    let Step::Write {
        version, record, ..
    } = step
    else {
        panic!("{step:?}")
    };
    assert_eq!(
        (version.as_deref(), record),
        (Some("1"), held_by(Some("me"), "1").record)
    );
}

#[test]
fn a_leader_steps_down_at_its_deadline_and_not_at_the_leases_end() {
    let mut observed = leader(seconds(10));
    observed.got_no_answer(seconds(19), &params("me"));
    assert_eq!(
        decide(seconds(19), &observed, &params("me")),
        Step::Wait { until: seconds(20) }
    );
    assert_eq!(
        decide(seconds(20), &observed, &params("me")),
        Step::StepDown(Loss::Expired)
    );
}

#[test]
fn a_leader_that_finds_another_holder_or_none_steps_down() {
    for (answer, loss) in [
        (
            Some(held_by(Some("other"), "2")),
            Loss::Taken("other".to_owned()),
        ),
        (Some(held_by(None, "2")), Loss::Gone),
        (None, Loss::Gone),
    ] {
        let mut observed = leader(seconds(10));
        observed.lost_race();
        assert!(matches!(
            decide(seconds(12), &observed, &params("me")),
            Step::Read { .. }
        ));
        observed.saw(seconds(12), answer);
        assert_eq!(
            decide(seconds(12), &observed, &params("me")),
            Step::StepDown(loss)
        );
    }
}

#[test]
fn only_a_lease_of_ours_is_released() {
    let step = release(seconds(11), &leader(seconds(10)), &params("me"));
    let Some(Step::Write {
        version, record, ..
    }) = step
    else {
        panic!("{step:?}")
    };
    assert_eq!((version.as_deref(), record.holder), (Some("1"), None));
    assert_eq!(
        release(seconds(11), &leader(seconds(10)), &params("other")),
        None
    );
    assert_eq!(
        release(seconds(11), &Observed::default(), &params("me")),
        None
    );
}

fn prompt() -> Fate {
    let message = Some(Duration::from_millis(5));
    Fate {
        request: message,
        response: message,
    }
}

fn clock() -> impl Strategy<Value = Clock> {
    // Rates within ±18 % of true time: their ratio stays below 15 s to 10 s.
    (0..1_000_000_u64, 0.82..1.18_f64).prop_map(|(offset, rate)| Clock {
        offset: Duration::from_millis(offset),
        rate,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let delay = |delays: Range<u64>| delays.prop_map(|delay| Some(Duration::from_millis(delay)));
    prop_oneof![
        6 => delay(1..100),
        2 => delay(100..12_000),
        1 => delay(12_000..40_000),
        2 => Just(None),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    (message(), message()).prop_map(|(request, response)| Fate { request, response })
}

fn overlap(reigns: &[Reign]) -> Option<(Reign, Reign)> {
    let mut sorted = reigns.to_vec();
    sorted.sort_by_key(|reign| reign.from);
    sorted.windows(2).find_map(|pair| {
        let [one, next] = [pair[0], pair[1]];
        (next.from < one.to && next.contender != one.contender).then_some((one, next))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn two_contenders_never_lead_at_once(
        clocks in [clock(), clock()],
        fates in vec(fate(), 1..400),
        stops in vec((0..2_usize, 0..600_u64), 0..8),
    ) {
        let mut fates = fates.into_iter().cycle();
        let next = move |_, _| fates.next().unwrap_or_else(prompt);
        let mut world = World::new(&clocks, TIMES, Box::new(next));
        for (contender, at) in stops {
            world.stop(contender, seconds(at));
        }
        let reigns = world.run(seconds(600));
        prop_assert!(overlap(&reigns).is_none(), "{:?}", overlap(&reigns));
    }

    #[test]
    fn somebody_leads_soon_and_always_while_the_network_works(
        clocks in [clock(), clock()],
        stops in vec((0..2_usize, 0..600_u64), 0..8),
    ) {
        let mut world = World::new(&clocks, TIMES, Box::new(|_, _| prompt()));
        for &(contender, at) in &stops {
            world.stop(contender, seconds(at));
        }
        let mut reigns = world.run(seconds(600));
        reigns.sort_by_key(|reign| reign.from);
        let mut led_until = Duration::ZERO;
        // A stop amid a renewal cannot release: then the lease must run out by the other's clock,
        // which may be the slowest, and be found by its next look, also after its own restart.
        let gap = seconds(15 + 2).div_f64(0.82) + seconds(2);
        // One that stops amid its acquisition leaves a fresh lease that nobody uses, and the wait begins anew.
        let latest = |from: Duration| {
            let mut latest = from + gap;
            let mut stops: Vec<_> = stops.iter().map(|&(_, at)| seconds(at)).collect();
            stops.sort();
            for at in stops {
                if from < at && at <= latest {
                    latest = at + gap;
                }
            }
            latest
        };
        for reign in reigns {
            prop_assert!(reign.from <= latest(led_until), "nobody led from {led_until:?} to {:?}", reign.from);
            led_until = led_until.max(reign.to);
        }
        prop_assert!(latest(led_until) >= seconds(600));
    }
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_within_the_leases_duration_and_a_look() {
    let even = Clock {
        offset: Duration::ZERO,
        rate: 1.0,
    };
    let cut = seconds(30);
    let fates = move |contender, now| match contender {
        0 if now >= cut => Fate {
            request: None,
            response: None,
        },
        _ => prompt(),
    };
    let mut world = World::new(&[even, even], TIMES, Box::new(fates));
    // The second contender is away when the first takes the lease.
    world.stop(1, Duration::ZERO);
    let reigns = world.run(seconds(60));
    let [first, second] = reigns[..] else {
        panic!("{reigns:?}")
    };
    assert_eq!([first.contender, second.contender], [0, 1]);
    assert!(first.to <= cut + seconds(10), "{first:?}");
    assert!(second.from <= cut + seconds(15 + 2), "{second:?}");
}
