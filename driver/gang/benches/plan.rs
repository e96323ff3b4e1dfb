//! How long plans take in a cluster of 100,000 nodes, three quarters of which are held.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use divan::{Bencher, black_box};
use tessera_gang::eligibility::{Eligibility, Key, Operator, Requirement, Term};
use tessera_gang::policy::CliquePolicy;
use tessera_gang::testing::{demand, node};
use tessera_gang::{Cluster, Demand, GangId, Levels, Shape, place, why};

const NODES: u32 = 100_000;
const CLIQUE: u32 = 18;

fn main() {
    divan::main();
}

/// Made once, because loading it takes longer than everything else here.
fn full() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(build)
}

fn build() -> Cluster {
    let levels = Levels::new(["zone", "spine", "leaf"].map(str::to_owned));
    let mut cluster = Cluster::new(levels.expect("three labels are levels"));
    for number in 0..NODES {
        let clique = number / CLIQUE;
        let mut facts = node(
            &format!("node-{number:06}"),
            Some(&format!("rack-{clique}.0")),
        );
        let labels = [
            ("zone", format!("z{}", clique / 1024)),
            ("spine", format!("s{}", clique / 256)),
            ("leaf", format!("l{}", clique / 16)),
            ("pool", format!("p{}", clique % 4)),
        ];
        facts
            .labels
            .extend(labels.map(|(key, value)| (key.to_owned(), value)));
        // As many labels as nodes of clouds have.
        let more = (0..24).map(|at| {
            (
                format!("example.com/label-{at}"),
                format!("value-{}", number % 7),
            )
        });
        facts.labels.extend(more);
        cluster.upsert(facts);
    }
    let mut held = 0;
    let sizes = [1, 2, 4, 8, 9, 16, 3, 5];
    for (number, size) in sizes.iter().cycle().enumerate() {
        if held >= NODES * 3 / 4 {
            break;
        }
        let gang = GangId::from(number.to_string());
        let placement = place(&cluster, &demand(gang.as_str(), *size)).expect("a quarter is free");
        cluster
            .hold(&gang, &placement)
            .expect("a plan takes only what is free");
        held += size;
    }
    cluster
}

fn wants(nodes: u32, change: impl FnOnce(&mut Demand)) -> Demand {
    let mut demand = demand("bench", nodes);
    change(&mut demand);
    demand
}

/// A selector that no other bench and no earlier round used; every requirement of it holds of every fourth node.
fn selector(round: u32) -> Eligibility {
    let requirement = |key: &str, operator| Requirement {
        key: Key::Label(key.to_owned()),
        operator,
    };
    let mut eligibility = Eligibility::default();
    eligibility
        .labels
        .insert("pool".to_owned(), "p1".to_owned());
    eligibility.terms = vec![Term(vec![
        requirement(
            "example.com/label-5",
            Operator::NotIn(vec![round.to_string()]),
        ),
        requirement("example.com/label-7", Operator::Exists),
        requirement(
            "kubernetes.io/hostname",
            Operator::NotIn(vec!["node-000000".to_owned()]),
        ),
    ])];
    eligibility
}

#[divan::bench(args = [1, 8, 18])]
fn one_clique(bencher: Bencher<'_, '_>, nodes: u32) {
    let demand = wants(nodes, |_| {});
    bencher.bench(|| place(full(), black_box(&demand)).expect("it fits"));
}

#[divan::bench(args = [36, 288, 1_800])]
fn many_cliques(bencher: Bencher<'_, '_>, nodes: u32) {
    let demand = wants(nodes, |_| {});
    bencher.bench(|| place(full(), black_box(&demand)).expect("it fits"));
}

#[divan::bench]
fn many_cliques_in_one_spine(bencher: Bencher<'_, '_>) {
    let demand = wants(144, |demand| {
        demand.policy.required_level = Some("spine".to_owned());
    });
    bencher.bench(|| place(full(), black_box(&demand)));
}

#[divan::bench]
fn spread(bencher: Bencher<'_, '_>) {
    let demand = wants(64, |demand| demand.policy.clique = CliquePolicy::Spread);
    bencher.bench(|| place(full(), black_box(&demand)).expect("it fits"));
}

#[divan::bench]
fn why_not(bencher: Bencher<'_, '_>) {
    let demand = wants(90_000, |_| {});
    bencher.bench(|| why(full(), black_box(&demand)));
}

#[divan::bench]
fn first_use_of_a_selector(bencher: Bencher<'_, '_>) {
    let round = AtomicU32::new(0);
    // The cluster is made before anything is timed.
    let _made = full();
    bencher
        .with_inputs(|| {
            let round = round.fetch_add(1, Ordering::Relaxed);
            wants(8, |demand| demand.shape = Shape::new(4, selector(round)))
        })
        .bench_refs(|demand| place(full(), black_box(demand)));
}

#[divan::bench]
fn hold_and_release(bencher: Bencher<'_, '_>) {
    let mut cluster = build();
    let demand = wants(9, |_| {});
    let gang = GangId::from("bench");
    bencher.bench_local(|| {
        let placement = place(&cluster, &demand).expect("it fits");
        cluster
            .hold(&gang, &placement)
            .expect("a plan takes only what is free");
        cluster.release(&gang)
    });
}
