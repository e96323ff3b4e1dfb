//! A card whose driver keeps hard limits, for tests: a model of what NVML's memory limits do, and no more.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;

/// What a process takes outside of its limit: its context.
const CONTEXT: u64 = 64 << 20;
/// Contexts must fit into the reserve.
const PROCESSES: usize = 16;

/// A share and its processes, each with what it allocated.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub(super) state: ShareState,
    processes: Vec<u64>,
}

impl Tenant {
    fn used(&self) -> u64 {
        self.processes.iter().sum()
    }

    pub(super) fn runs(&self) -> bool {
        matches!(self.state.limit, Limit::At(_))
    }

    /// What NVML shows of it.
    fn on_card(&self) -> u64 {
        let contexts = u64::try_from(self.processes.len()).unwrap() * CONTEXT;
        self.used() + contexts
    }
}

#[derive(Clone, Debug)]
pub(super) struct Simulated {
    pub(super) card: Card,
    pub(super) tenants: BTreeMap<Holder, Tenant>,
    born: usize,
}

impl Simulated {
    pub(super) fn new(card: Card) -> Self {
        Self {
            card,
            tenants: BTreeMap::new(),
            born: 0,
        }
    }

    fn budget(&self) -> u64 {
        self.card.memory.0 - self.card.reserve.0
    }

    pub(super) fn states(&self) -> BTreeMap<Holder, ShareState> {
        let tenants = self.tenants.iter();
        tenants
            .map(|(holder, tenant)| (holder.clone(), tenant.state))
            .collect()
    }

    /// A scheduler gives a share to a claim if the sum of guarantees allows it.
    pub(super) fn arrive(&mut self, rng: &mut Rng) {
        let promised: u64 = self
            .tenants
            .values()
            .map(|tenant| tenant.state.guarantee.0)
            .sum();
        let guarantee = rng.u64(1..=24) * GIB / 2;
        if self.tenants.len() == 8 || promised + guarantee > self.budget() {
            return;
        }
        let ceiling = *rng
            .choice(&[guarantee, guarantee * 3, self.budget()])
            .unwrap();
        let state = ShareState {
            guarantee: Bytes(guarantee),
            ceiling: Bytes(ceiling.min(self.budget())),
            used: Bytes(0),
            limit: Limit::Unset,
            rungs: Rungs {
                trim: rng.bool(),
                swap: rng.u8(0..4) == 0,
                evict: rng.u8(0..4) == 0,
            },
            pressed: Pressed::Not,
        };
        self.born += 1;
        let tenant = Tenant {
            state,
            processes: Vec::new(),
        };
        self.tenants
            .insert(holder(&format!("share{:05}", self.born)), tenant);
    }

    pub(super) fn any(&mut self, rng: &mut Rng) -> Option<Holder> {
        let at = rng.usize(0..self.tenants.len().max(1));
        self.tenants.keys().nth(at).cloned()
    }

    pub(super) fn spawn(&mut self, holder: &Holder) {
        let processes: usize = self
            .tenants
            .values()
            .map(|tenant| tenant.processes.len())
            .sum();
        let tenant = self.tenants.get_mut(holder).unwrap();
        if tenant.runs() && processes < PROCESSES {
            tenant.processes.push(0);
        }
    }

    /// The driver gives memory within the limit, and else an out-of-memory error. Whether it gave.
    pub(super) fn allocate(&mut self, holder: &Holder, rng: &mut Rng, bytes: u64) -> bool {
        let tenant = self.tenants.get_mut(holder).unwrap();
        let fits = tenant.used() + bytes <= limit(&tenant.state);
        if fits && let Some(process) = rng.choice(&mut tenant.processes) {
            *process += bytes;
            tenant.state.used = Bytes(tenant.used());
        }
        fits
    }

    pub(super) fn free(&mut self, holder: &Holder, rng: &mut Rng) {
        let tenant = self.tenants.get_mut(holder).unwrap();
        if let Some(process) = rng.choice(&mut tenant.processes) {
            *process -= rng.u64(0..=*process);
        }
        tenant.state.used = Bytes(tenant.used());
    }

    pub(super) fn kill(&mut self, holder: &Holder, rng: &mut Rng) {
        let tenant = self.tenants.get_mut(holder).unwrap();
        if !tenant.processes.is_empty() {
            tenant
                .processes
                .swap_remove(rng.usize(0..tenant.processes.len()));
        }
        tenant.state.used = Bytes(tenant.used());
    }

    /// A guarantee is there at any moment: the share fills it up.
    pub(super) fn fill_guarantee(&mut self, holder: &Holder, rng: &mut Rng) {
        self.spawn(holder);
        let tenant = &self.tenants[holder];
        if tenant.runs() && !tenant.processes.is_empty() {
            let lacks = tenant.state.guarantee.0.saturating_sub(tenant.used());
            assert!(
                self.allocate(holder, rng, lacks),
                "{holder} cannot have its guarantee"
            );
        }
    }

    /// The driver refuses a limit below the use.
    pub(super) fn set(&mut self, holder: &Holder, to: Bytes) {
        if let Some(tenant) = self.tenants.get_mut(holder)
            && tenant.used() <= to.0
        {
            tenant.state.limit = Limit::At(to);
        }
    }

    pub(super) fn press(&mut self, holder: &Holder, rung: Rung) {
        if let Some(tenant) = self.tenants.get_mut(holder) {
            tenant.state.pressed = Pressed::Under(rung);
        }
    }

    /// Nobody knows any more, or needs to, what was done to shares.
    pub(super) fn forget(&mut self) {
        for tenant in self.tenants.values_mut() {
            tenant.state.pressed = Pressed::Not;
        }
    }

    /// Means that were under way have had their time. A share that is told to trim does as it can.
    pub(super) fn finish(&mut self, holder: &Holder, rng: &mut Rng) {
        let Pressed::Under(means) = self.tenants[holder].state.pressed else {
            return;
        };
        let tenant = self.tenants.get_mut(holder).unwrap();
        match means {
            Rung::Trim => {
                for process in &mut tenant.processes {
                    *process -= rng.u64(0..=*process / 4);
                }
            }
            Rung::Swap => tenant.processes.clear(),
            Rung::Evict => {
                self.tenants.remove(holder);
                return;
            }
        }
        tenant.state.used = Bytes(tenant.used());
        tenant.state.pressed = Pressed::Spent(means);
    }

    /// What must hold at every sample.
    pub(super) fn check(&self) {
        let mut limits = 0;
        let mut on_card = 0;
        for (holder, tenant) in &self.tenants {
            let limit = limit(&tenant.state);
            assert!(
                tenant.used() <= limit,
                "{holder} uses more than its limit: {tenant:?}"
            );
            assert!(
                tenant.on_card() <= limit + self.card.reserve.0,
                "{holder}: {tenant:?}"
            );
            assert!(
                !tenant.runs() || limit >= tenant.state.guarantee.0,
                "{holder} runs without its guarantee: {tenant:?}"
            );
            limits += limit;
            on_card += tenant.on_card();
        }
        assert!(
            limits <= self.budget(),
            "limits exceed the card: {:?}",
            self.tenants
        );
        assert!(
            on_card <= self.card.memory.0,
            "use exceeds the card: {:?}",
            self.tenants
        );
    }
}
