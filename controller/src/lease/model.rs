//! A model of contenders with skewed clocks and an API server that loses and delays messages.
//!
//! The model keeps true time; each contender sees only its own clock, which starts anywhere and
//! runs at a rate of its own. A call is two messages, each with a delay, either of which may be
//! lost; a call that its contender gave up on can still arrive.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Moment, Observed, Params, Record, Step, Stored, decide, release};

/// How long a restarted contender is away.
const AWAY: Duration = Duration::from_secs(1);

/// What happens to one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) request: Message,
    pub(super) response: Message,
}

/// Decides what happens to the call that a contender makes now.
pub(super) type Fates = Box<dyn FnMut(usize, Duration) -> Fate>;

/// What happens to one message: its delay, or that it never arrives.
pub(super) type Message = Option<Duration>;

/// A contender's clock: `local = offset + rate * true`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) offset: Duration,
    pub(super) rate: f64,
}

impl Clock {
    fn local(&self, time: Duration) -> Moment {
        self.offset + time.mul_f64(self.rate)
    }

    fn true_time(&self, local: Moment) -> Duration {
        // Rounded up, so that a wait never ends a nanosecond before the moment it is for.
        local.saturating_sub(self.offset).div_f64(self.rate) + Duration::from_nanos(100)
    }
}

/// A span of true time in which a contender believes that it leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reign {
    pub(super) contender: usize,
    pub(super) from: Duration,
    pub(super) to: Duration,
}

enum Event {
    Wake {
        contender: usize,
        life: u32,
    },
    Arrive {
        contender: usize,
        life: u32,
        call: Call,
    },
    Answer {
        contender: usize,
        life: u32,
        call: u64,
        sent: Moment,
        outcome: Outcome,
    },
    GiveUp {
        contender: usize,
        life: u32,
        call: u64,
    },
    Stop {
        contender: usize,
    },
}

struct Call {
    number: u64,
    sent: Moment,
    step: Step,
    response: Message,
}

enum Outcome {
    Read(Option<Stored>),
    Written(Stored),
    Raced,
}

struct Contender {
    clock: Clock,
    params: Params,
    observed: Observed,
    life: u32,
    calls: u64,
    waiting: bool,
    reign: Option<Reign>,
}

/// The world: contenders, the Lease, messages under way.
pub(super) struct World {
    now: Duration,
    contenders: Vec<Contender>,
    lease: Option<Stored>,
    versions: u64,
    events: BTreeMap<(Duration, u64), Event>,
    event_count: u64,
    fates: Fates,
    reigns: Vec<Reign>,
}

impl World {
    pub(super) fn new(clocks: &[Clock], times: [u64; 3], fates: Fates) -> Self {
        let [duration, renew_deadline, retry_period] = times.map(Duration::from_secs);
        let contenders = clocks.iter().map(|&clock| Contender {
            clock,
            params: Params::new(String::new(), duration, renew_deadline, retry_period).unwrap(),
            observed: Observed::default(),
            life: 0,
            calls: 0,
            waiting: false,
            reign: None,
        });
        let mut world = Self {
            now: Duration::ZERO,
            contenders: contenders.collect(),
            lease: None,
            versions: 0,
            events: BTreeMap::new(),
            event_count: 0,
            fates,
            reigns: Vec::new(),
        };
        for contender in 0..clocks.len() {
            world.start(contender, Duration::ZERO);
        }
        world
    }

    /// Asks `contender` to shut down at `at`; it starts again soon after.
    pub(super) fn stop(&mut self, contender: usize, at: Duration) {
        self.schedule(at, Event::Stop { contender });
    }

    /// Runs until `end` and returns every reign.
    pub(super) fn run(mut self, end: Duration) -> Vec<Reign> {
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= end
        {
            let ((now, _), event) = entry.remove_entry();
            self.now = now;
            self.handle(event);
        }
        for contender in 0..self.contenders.len() {
            self.end_reign(contender, end);
        }
        self.reigns
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.event_count += 1;
        self.events
            .insert((at.max(self.now), self.event_count), event);
    }

    /// Begins a new life under a new identity, as a restarted process does.
    fn start(&mut self, contender: usize, after: Duration) {
        let one = &mut self.contenders[contender];
        one.life += 1;
        one.observed = Observed::default();
        one.waiting = false;
        one.params.identity = format!("{contender}/{}", one.life);
        let life = one.life;
        self.schedule(self.now + after, Event::Wake { contender, life });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake { contender, life } if self.lives(contender, life) => self.act(contender),
            Event::Arrive {
                contender,
                life,
                call,
            } => self.arrive(contender, life, call),
            Event::Answer {
                contender,
                life,
                call,
                sent,
                outcome,
            } if self.awaits(contender, life, call) => {
                self.answer(contender, sent, outcome);
            }
            Event::GiveUp {
                contender,
                life,
                call,
            } if self.awaits(contender, life, call) => {
                let one = &mut self.contenders[contender];
                one.waiting = false;
                one.observed
                    .got_no_answer(one.clock.local(self.now), &one.params);
                self.act(contender);
            }
            Event::Stop { contender } => self.shut_down(contender),
            Event::Wake { .. } | Event::Answer { .. } | Event::GiveUp { .. } => {}
        }
    }

    fn lives(&self, contender: usize, life: u32) -> bool {
        self.contenders[contender].life == life && !self.contenders[contender].waiting
    }

    fn awaits(&self, contender: usize, life: u32, call: u64) -> bool {
        let one = &self.contenders[contender];
        one.life == life && one.waiting && one.calls == call
    }

    fn act(&mut self, contender: usize) {
        let one = &self.contenders[contender];
        let life = one.life;
        match decide(one.clock.local(self.now), &one.observed, &one.params) {
            Step::Wait { until } => {
                let at = one.clock.true_time(until);
                self.schedule(at, Event::Wake { contender, life });
            }
            step @ (Step::Read { by } | Step::Write { by, .. }) => {
                let at = one.clock.true_time(by);
                let call = self.send(contender, step);
                self.schedule(
                    at,
                    Event::GiveUp {
                        contender,
                        life,
                        call,
                    },
                );
            }
            Step::StepDown(_) => {
                self.end_reign(contender, self.now);
                self.start(contender, AWAY);
            }
        }
    }

    fn send(&mut self, contender: usize, step: Step) -> u64 {
        let fate = (self.fates)(contender, self.now);
        let one = &mut self.contenders[contender];
        one.calls += 1;
        one.waiting = true;
        let (number, life) = (one.calls, one.life);
        let sent = one.clock.local(self.now);
        if let Some(delay) = fate.request {
            let call = Call {
                number,
                sent,
                step,
                response: fate.response,
            };
            self.schedule(
                self.now + delay,
                Event::Arrive {
                    contender,
                    life,
                    call,
                },
            );
        }
        number
    }

    fn arrive(&mut self, contender: usize, life: u32, call: Call) {
        let outcome = match call.step {
            Step::Write {
                version, record, ..
            } => self.store(version.as_ref(), record),
            Step::Read { .. } | Step::Wait { .. } | Step::StepDown(_) => {
                Outcome::Read(self.lease.clone())
            }
        };
        if let Some(delay) = call.response {
            let Call {
                number: call, sent, ..
            } = call;
            let event = Event::Answer {
                contender,
                life,
                call,
                sent,
                outcome,
            };
            self.schedule(self.now + delay, event);
        }
    }

    fn store(&mut self, version: Option<&String>, record: Record) -> Outcome {
        if self.lease.as_ref().map(|lease| &lease.version) != version {
            return Outcome::Raced;
        }
        self.versions += 1;
        let stored = Stored {
            version: self.versions.to_string(),
            record,
        };
        self.lease = Some(stored.clone());
        Outcome::Written(stored)
    }

    fn answer(&mut self, contender: usize, sent: Moment, outcome: Outcome) {
        let true_now = self.now;
        let one = &mut self.contenders[contender];
        one.waiting = false;
        let now = one.clock.local(true_now);
        match outcome {
            Outcome::Read(stored) => one.observed.saw(now, stored),
            Outcome::Raced => one.observed.lost_race(),
            Outcome::Written(stored) => {
                one.observed.wrote(sent, now, stored);
                let until = one.observed.leads_until(&one.params).unwrap();
                let to = one.clock.true_time(until);
                let reign = Reign {
                    contender,
                    from: true_now,
                    to,
                };
                let from = one.reign.map_or(reign.from, |reign| reign.from);
                one.reign = Some(Reign { from, ..reign });
            }
        }
        self.act(contender);
    }

    fn shut_down(&mut self, contender: usize) {
        self.end_reign(contender, self.now);
        let one = &self.contenders[contender];
        let step = release(one.clock.local(self.now), &one.observed, &one.params);
        if let Some(step) = step {
            self.send(contender, step);
        }
        self.start(contender, AWAY);
    }

    fn end_reign(&mut self, contender: usize, at: Duration) {
        if let Some(reign) = self.contenders[contender].reign.take() {
            self.reigns.push(Reign {
                to: reign.to.min(at),
                ..reign
            });
        }
    }
}
