//! Prepares and unprepares claims for channels of compute domains.
//!
//! # Flow
//! Prepare reads the claim and asks the API server about the domain that it names; what claim, slot and
//! domain say must agree. On a node with an NVLink session it waits until that is ready. Then it locks the
//! node's channels and reads the journal, under that lock, and the kernel's numbers. Unprepare needs neither
//! API nor hardware: the record says what to take back.
//!
//! # Guarantees
//! As for GPUs: both are idempotent by the claim's UID, a claim that is being let go is waited for, and a
//! failure concerns one claim. There is one lock for all channels of the node: a claim for all of them
//! meets every other, and the work under it takes a millisecond.

mod accounting;
mod domains;
mod kernel;
mod lock;
mod release;
mod session;
#[cfg(test)]
mod tests;
mod upkeep;

use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;
use tessera_claim::{ClaimRef, allocation, slot};
use tessera_device::fabric::NodeFabric;
use tessera_offer::HeldChannels;
use tessera_prepare::channel::{
    self, ChannelRecord, ChannelRefusal, Channels, DomainFacts, Granted, PreparedChannel, Via,
    Wanted, admit, grant, standing, wanted,
};
use tessera_prepare::refusal::Refusal;
use tessera_prepare::standing::Standing;
use tessera_prepare::step::{Step, undo_all};
use tessera_prepare::waiting::WaitingFor;
use tessera_shell::logging::chain;
use tokio::sync::watch;
use tracing::{info, warn};

pub use self::domains::{ApiDomains, DomainReadError, DomainReader};
pub use self::kernel::{Kernel, ProcFiles};
pub use self::lock::{ChannelsBusy, ChannelsLock, LockedChannels};
use self::session::Heard;
pub use self::session::{HostImex, NodeSession, SessionNotReady};
use crate::claim_reader::{ClaimReader, ReadError};
use crate::claims::{ClaimError, Identity};
use crate::deadline::Deadline;
use crate::executor::{self, Node, execute, take_back, take_back_recorded, take_back_unreadable};
use crate::hardware::{Hardware, HardwareWatch};
use crate::journal::{EntryOf, Records};
use crate::metrics::Operation;
use crate::wait::Waits;

/// What the journal has of one claim.
type Entry = EntryOf<PreparedChannel>;

/// What this node is and has, as far as channels need it.
pub struct Ports<A, D, R, N, K> {
    /// Reads claims.
    pub claims: A,
    /// Reads what the API server says of domains.
    pub domains: D,
    /// The journal.
    pub records: R,
    /// Where CDI specs go.
    pub node: N,
    /// What the kernel says of channels.
    pub kernel: K,
    /// The lock of the node's channels.
    pub lock: ChannelsLock,
    /// The GPUs, whose fabric decides whether a channel is needed.
    pub hardware: HardwareWatch,
    /// Who runs the node's NVLink session.
    pub session: NodeSession,
    /// How calls wait.
    pub waits: Waits,
}

/// Prepares and unprepares the claims of the compute-domain driver on one node.
pub struct ChannelClaims<A, D, R, N, K> {
    identity: Identity,
    ports: Ports<A, D, R, N, K>,
    /// Rings whenever a claim is prepared or taken back.
    changes: watch::Sender<()>,
}

impl<A, D, R, N, K> ChannelClaims<A, D, R, N, K>
where
    A: ClaimReader,
    D: DomainReader,
    R: Records<PreparedChannel>,
    N: Node,
    K: Kernel,
{
    /// Puts the parts together.
    pub fn new(identity: Identity, ports: Ports<A, D, R, N, K>) -> Self {
        Self {
            identity,
            ports,
            changes: watch::Sender::new(()),
        }
    }

    /// Prepares a claim and returns its devices.
    pub async fn prepare(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<Vec<PreparedChannel>, ClaimError> {
        match self.read(claim, deadline).await {
            Err(error) if is_api_away(&error) => self.without_api(claim, error),
            Err(error) => Err(error),
            Ok(granted) => self.prepare_granted(claim, granted, deadline).await,
        }
    }

    /// Takes back whatever was prepared of a claim. A claim that was not is no error.
    pub async fn unprepare(&self, claim: &ClaimRef, deadline: Deadline) -> Result<(), ClaimError> {
        let _held = self.locked(Operation::unprepare, claim, deadline).await?;
        let Ports { records, node, .. } = &self.ports;
        match records.read(&claim.uid)? {
            Some(Entry::Record(record)) => {
                take_back_recorded(&record, records, node, deadline).await?;
            }
            Some(Entry::Unreadable(unreadable)) => {
                let copied = unreadable.copy.as_ref();
                let mut steps = copied.map_or_else(Vec::new, |copy| undo_all(&copy.effects));
                steps.extend(self.usual_leftovers(claim));
                take_back_unreadable(&unreadable, &steps, records, node, deadline).await?;
            }
            // Without a record that says otherwise, what can be left is what every claim has.
            None => {
                let steps = self.usual_leftovers(claim);
                take_back(&claim.uid, &steps, records, node, deadline).await?;
            }
        }
        self.ring();
        Ok(())
    }

    /// Rings whenever other channels may be held than before.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Says that other channels may be held than before.
    pub fn ring(&self) {
        self.changes.send_replace(());
    }

    /// The channels that containers of this node may have, whoever prepared their claims.
    pub fn held(&self) -> HeldChannels {
        let traces = self.traces().inspect_err(|error| {
            warn!(error = %chain(error), "the held channels cannot be listed");
        });
        let Ok(contents) = traces else {
            return HeldChannels::Any;
        };
        let (accounted, unreadable) = self.account(contents.unreadable);
        if !unreadable.is_empty() {
            return HeldChannels::Any;
        }
        let records = contents.records.iter().chain(&accounted);
        let devices = records.flat_map(|record| &record.devices);
        let one = |device: &PreparedChannel| match device.channels {
            Channels::One(number) => Some(number),
            Channels::All => None,
        };
        // A claim for all of them makes it any.
        let numbers = devices.map(one).collect::<Option<_>>();
        numbers.map_or(HeldChannels::Any, HeldChannels::These)
    }

    /// What the claim may have, as the API server says it.
    async fn read(&self, claim: &ClaimRef, deadline: Deadline) -> Result<Vec<Granted>, ClaimError> {
        let object = self.read_claim(claim, deadline).await?;
        let allocation = allocation(
            &object,
            claim,
            &self.identity.driver,
            self.identity.features,
        )
        .map_err(Refusal::from)?;
        let mut granted = Vec::new();
        for wanted in wanted(&allocation, &self.identity.pool)? {
            let facts = self.facts(claim, &wanted, deadline).await?;
            granted.push(grant(claim, wanted, &facts).map_err(Refusal::from)?);
        }
        Ok(granted)
    }

    async fn read_claim(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<ResourceClaim, ClaimError> {
        let Ports { claims, waits, .. } = &self.ports;
        let read = claims.read(claim, deadline);
        let read = waits.during(Operation::prepare, claim, || WaitingFor::Api, read);
        Ok(read.await??)
    }

    async fn facts(
        &self,
        claim: &ClaimRef,
        wanted: &Wanted,
        deadline: Deadline,
    ) -> Result<DomainFacts, ClaimError> {
        let Ports { domains, waits, .. } = &self.ports;
        let read = async {
            match wanted.via {
                Via::Slot => {
                    let (pool, device) = (&wanted.allocated.pool, &wanted.allocated.device);
                    let slices = domains.slices(pool, device, deadline).await?;
                    let slot = slot(&slices, &self.identity.driver, pool, device);
                    Ok(DomainFacts::Slot(slot))
                }
                Via::Node => {
                    let uids = domains.domains_in(&claim.namespace, deadline).await?;
                    Ok(DomainFacts::OfNamespace(uids))
                }
            }
        };
        let read = waits.during(Operation::prepare, claim, || WaitingFor::Api, read);
        read.await?.map_err(|error: DomainReadError| error.into())
    }

    async fn prepare_granted(
        &self,
        claim: &ClaimRef,
        granted: Vec<Granted>,
        deadline: Deadline,
    ) -> Result<Vec<PreparedChannel>, ClaimError> {
        // What a claim's containers have stays theirs, whatever has become of the driver.
        if self.ports.hardware.now().is_none() {
            let _held = self.locked(Operation::prepare, claim, deadline).await?;
            if let Some(record) = self.prepared(claim, &granted)?
                && self.intact(&record)?
            {
                return Ok(record.devices);
            }
        }
        let hardware = self.ready_hardware(claim, deadline).await?;
        self.ready_session(claim, &granted, &hardware, deadline)
            .await?;
        loop {
            let held = self.locked(Operation::prepare, claim, deadline).await?;
            let prepared = self.prepare_locked(claim, granted.clone(), &hardware, &held, deadline);
            match prepared.await {
                Err(ClaimError::Refused(Refusal::Channel(
                    refusal @ ChannelRefusal::Held { .. },
                ))) => {
                    drop(held);
                    self.await_release(refusal, deadline).await?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn ready_hardware(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<Arc<Hardware>, ClaimError> {
        let Ports {
            hardware, waits, ..
        } = &self.ports;
        let missing = || WaitingFor::Driver {
            why: hardware.problem().unwrap_or_default(),
        };
        let ready = hardware.ready(deadline);
        let ready = waits.during(Operation::prepare, claim, missing, ready);
        Ok(ready.await??)
    }

    /// The record of a claim that is prepared as it is to be.
    fn prepared(
        &self,
        claim: &ClaimRef,
        granted: &[Granted],
    ) -> Result<Option<ChannelRecord>, ClaimError> {
        let entry = self.ports.records.read(&claim.uid)?;
        let record = entry.as_ref().and_then(EntryOf::record);
        let is_prepared = |record: &&ChannelRecord| {
            standing(Some(*record), granted, &self.identity.boot) == Standing::Prepared
        };
        Ok(record.filter(is_prepared).cloned())
    }

    /// Waits for the node's session, where it has one with other nodes. A claim that is prepared has what it has.
    async fn ready_session(
        &self,
        claim: &ClaimRef,
        granted: &[Granted],
        hardware: &Hardware,
        deadline: Deadline,
    ) -> Result<(), ClaimError> {
        let alone = NodeFabric::of(hardware.inventory.gpus()).clique().is_none();
        if alone || self.prepared(claim, granted)?.is_some() {
            return Ok(());
        }
        let Ports { session, waits, .. } = &self.ports;
        let heard = Heard::nothing();
        let waiting = || WaitingFor::Session { why: heard.now() };
        let domains: Vec<&str> = granted
            .iter()
            .map(|granted| granted.domain.as_str())
            .collect();
        let ready = session.ready(&domains, &heard, deadline);
        let ready = waits.during(Operation::prepare, claim, waiting, ready);
        Ok(ready.await??)
    }

    async fn locked(
        &self,
        operation: Operation,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<LockedChannels, ClaimError> {
        let Ports { lock, waits, .. } = &self.ports;
        let taking = lock.take(deadline);
        let taken = waits.during(operation, claim, || WaitingFor::ChannelsLock, taking);
        taken.await?
    }

    /// Everything that must not be interrupted by another claim.
    async fn prepare_locked(
        &self,
        claim: &ClaimRef,
        granted: Vec<Granted>,
        hardware: &Hardware,
        held: &LockedChannels,
        deadline: Deadline,
    ) -> Result<Vec<PreparedChannel>, ClaimError> {
        let Identity { cdi_kind, boot, .. } = &self.identity;
        let Ports { records, node, .. } = &self.ports;
        let mut contents = self.traces()?;
        self.mend_own(claim, &granted, &mut contents)?;
        let mut own = contents.records.iter();
        let own = own.find(|record| record.claim.uid == claim.uid);
        match (standing(own, &granted, boot), own) {
            (Standing::Prepared, Some(record)) => return self.as_it_was(record, deadline).await,
            (Standing::Leftover, Some(record)) => {
                info!("taking back what an earlier preparation left");
                take_back_recorded(record, records, node, deadline).await?;
            }
            (Standing::New | Standing::Prepared | Standing::Leftover, _) => {}
        }
        let (accounted, unreadable) = self.account(contents.unreadable);
        let known = contents.records.iter().chain(&accounted);
        let admitted = admit(held, known, &unreadable, claim, granted).map_err(Refusal::from)?;
        let in_clique = NodeFabric::of(hardware.inventory.gpus()).clique().is_some();
        let channels = self.ports.kernel.channels()?;
        let plan =
            channel::plan(&admitted, channels, in_clique, cdi_kind, boot).map_err(Refusal::from)?;
        let executed = execute(plan, records, node, deadline).await;
        self.ring();
        Ok(executed?.devices)
    }

    /// The devices of a claim that is prepared already, its spec made anew where it is not as it was, or
    /// names a major number that the kernel has given to somebody else.
    async fn as_it_was(
        &self,
        record: &ChannelRecord,
        deadline: Deadline,
    ) -> Result<Vec<PreparedChannel>, ClaimError> {
        if !self.intact(record)? || !self.is_current(record)? {
            warn!("the spec of the prepared claim is missing, altered or out of date; made anew");
            self.restore(record, deadline).await?;
        }
        Ok(record.devices.clone())
    }

    async fn restore(&self, record: &ChannelRecord, deadline: Deadline) -> Result<(), ClaimError> {
        let Ports { records, node, .. } = &self.ports;
        let channels = self.ports.kernel.channels()?;
        let plan = channel::restore(record, channels, &self.identity.cdi_kind);
        executor::restore(plan, records, node, deadline).await?;
        Ok(())
    }

    /// Answers for a claim that the API cannot be asked about; with `error` unless it is prepared.
    fn without_api(
        &self,
        claim: &ClaimRef,
        error: ClaimError,
    ) -> Result<Vec<PreparedChannel>, ClaimError> {
        let entry = self.ports.records.read(&claim.uid)?;
        match entry.as_ref().and_then(EntryOf::record) {
            Some(record)
                if record.is_prepared_in(&self.identity.boot) && self.intact(record)? =>
            {
                warn!("the API server is away; answered from the journal");
                Ok(record.devices.clone())
            }
            _ => Err(error),
        }
    }

    fn usual_leftovers(&self, claim: &ClaimRef) -> Vec<Step> {
        let file = self.spec_file(&claim.uid);
        vec![Step::RemoveCdi { file }]
    }
}

/// Whether the API server did not answer, or was not waited for any longer.
fn is_api_away(error: &ClaimError) -> bool {
    matches!(
        error,
        ClaimError::Read(ReadError::Unavailable { .. })
            | ClaimError::Domain(DomainReadError::Unavailable { .. })
            | ClaimError::Interrupted(_)
    )
}
