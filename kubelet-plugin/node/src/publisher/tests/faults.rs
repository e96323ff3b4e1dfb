//! Calls that fail, and processes that die at a call.

use super::*;

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
