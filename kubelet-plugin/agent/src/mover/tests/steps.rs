//! Many processes that take, give back and are killed, in any order.

use super::*;

const STEPS: usize = 10_000;
const CLAIMS: usize = 6;

/// What the test knows of a claim.
#[derive(Clone, Copy, Default)]
struct Known {
    guarantee: u64,
    runs: bool,
}

struct World {
    node: Node,
    all: u64,
    claims: [Option<Known>; CLAIMS],
    random: fastrand::Rng,
}

fn name(claim: usize) -> String {
    format!("claim-{claim}")
}

impl World {
    fn guaranteed(&self) -> u64 {
        let claims = self.claims.iter().flatten();
        claims.map(|claim| claim.guarantee).sum()
    }

    async fn step(&mut self, plugin: &MemoryLimits<Process, Records>) {
        let claim = self.random.usize(..CLAIMS);
        let own = name(claim);
        match self.claims[claim] {
            None => self.allocate_claim(claim),
            Some(known @ Known { runs: false, .. }) => {
                let runs = self.node.start(plugin, &own).await;
                if !runs {
                    self.node.end(&own);
                }
                self.claims[claim] = Some(Known { runs, ..known });
            }
            Some(known) => self.step_of_a_container(claim, known),
        }
    }

    /// The scheduler gives away no more than there is.
    fn allocate_claim(&mut self, claim: usize) {
        let guarantee = self.random.u64(1..=40) * GIB;
        if self.guaranteed() + guarantee <= self.all {
            let ceiling = self.random.u64(guarantee..=self.all);
            self.node.prepare(&name(claim), guarantee, ceiling);
            self.claims[claim] = Some(Known {
                guarantee,
                runs: false,
            });
        }
    }

    fn step_of_a_container(&mut self, claim: usize, known: Known) {
        let (own, cgroup) = (name(claim), format!("/{}", name(claim)));
        let used = self.node.card.used_by(&cgroup);
        match self.random.u8(..100) {
            // The container is killed, and comes back.
            0..3 => {
                self.node.end(&own);
                self.claims[claim] = Some(Known {
                    runs: false,
                    ..known
                });
            }
            // The pod is deleted.
            3..5 => {
                self.node.end(&own);
                self.node.unprepare(&own);
                self.claims[claim] = None;
            }
            // One of its processes is killed.
            5..15 => self.node.card.free(&cgroup, used / 2),
            15..35 => self.node.card.free(&cgroup, self.random.u64(..=used)),
            _ => {
                let wanted = self.random.u64(1..=4 << 30);
                let taken = self.node.card.allocate(&cgroup, wanted);
                let is_guaranteed = used + wanted <= known.guarantee;
                assert!(
                    taken || !is_guaranteed,
                    "{own} was denied what it is guaranteed"
                );
            }
        }
    }

    fn check(&self) {
        let mut together = 0;
        for (number, claim) in self.claims.iter().enumerate() {
            let Some(Known {
                guarantee,
                runs: true,
            }) = claim
            else {
                continue;
            };
            let cgroup = format!("/{}", name(number));
            let (limit, used) = (
                self.node.card.limit_of(&cgroup),
                self.node.card.used_by(&cgroup),
            );
            assert!(used <= limit, "{cgroup}: {used} above {limit}");
            assert!(limit >= *guarantee, "{cgroup}: {limit} below {guarantee}");
            together += limit;
        }
        assert!(together <= self.all, "{together} of {}", self.all);
    }
}

#[tokio::test]
async fn nobody_is_above_its_limit_nor_all_above_the_card_whatever_happens() {
    let node = Node::new();
    let all = node.card.room();
    let seed = fastrand::u64(..);
    let mut world = World {
        node,
        all,
        claims: [None; CLAIMS],
        random: fastrand::Rng::with_seed(seed),
    };
    println!("seed {seed}");
    let (plugin, agent) = (world.node.plugin(), world.node.agent());
    let mut moved = 0;
    for number in 0..STEPS {
        world.step(&plugin).await;
        world.check();
        if number % 4 == 0 {
            for card in agent.tick().await.unwrap() {
                moved += card.outcome.unwrap().moved;
            }
            world.check();
        }
    }
    assert!(moved > 100, "limits were hardly moved: {moved}");
}
