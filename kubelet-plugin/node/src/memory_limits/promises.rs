//! The shares that the node has prepared, as its records tell.

use std::path::Path;

use tessera_prepare::record::{Phase, PreparedDevice, Record};
use tessera_sharing::{Holder, Promised};

use crate::journal::{Contents, Journal, JournalError, Records};
use crate::unchanged::Unchanged;

/// Who knows of prepared shares.
pub trait Promises: Send + Sync + 'static {
    /// All shares of this node that are held to their memory.
    fn promised(&self) -> Result<Vec<Promised>, JournalError>;
}

impl Promises for Journal {
    fn promised(&self) -> Result<Vec<Promised>, JournalError> {
        Ok(promised_by(&self.read_all()?))
    }
}

/// What a journal promises, which is read again when a record was put into it or taken out.
#[derive(Debug)]
pub struct KnownPromises {
    journal: Journal,
    known: Unchanged<Vec<Promised>>,
}

impl KnownPromises {
    /// Of this journal. Records are only ever replaced as a whole.
    pub fn of(journal: Journal) -> Self {
        let directories = journal.directories().map(Path::to_owned);
        Self {
            journal,
            known: Unchanged::of(directories.to_vec()),
        }
    }
}

impl Promises for KnownPromises {
    fn promised(&self) -> Result<Vec<Promised>, JournalError> {
        self.known.get(|| self.journal.promised())
    }
}

/// The shares that are held to their memory by all that the journal has.
pub fn promised_by(contents: &Contents) -> Vec<Promised> {
    let copies = contents.unreadable.iter();
    let copies = copies.filter_map(|unreadable| unreadable.copy.as_ref());
    let records = contents.records.iter().chain(copies);
    let records = records.filter(|record| record.phase != Phase::Released);
    records.flat_map(of).collect()
}

fn of(record: &Record) -> impl Iterator<Item = Promised> {
    record
        .devices
        .iter()
        .filter_map(|device| promised(record, device))
}

fn promised(record: &Record, device: &PreparedDevice) -> Option<Promised> {
    let guarantee = device.memory_limit?;
    let (_, share) = device.cdi_id.split_once('=')?;
    Some(Promised {
        share: share.to_owned(),
        holder: Some(Holder {
            claim: record.claim.clone(),
            share: device.share_id.clone(),
        }),
        gpu: device.gpu.clone(),
        guarantee,
        ceiling: device.memory_ceiling.unwrap_or(guarantee).max(guarantee),
    })
}

#[cfg(test)]
mod tests {
    use tessera_device::Bytes;
    use tessera_prepare::cdi::CdiKind;
    use tessera_prepare::testing::{record, share_record};

    use super::*;

    #[test]
    fn held_shares_of_records_and_of_copies_are_promised_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path(), CdiKind::claim()).unwrap();
        let gib = |gib: u64| Some(Bytes::from_mib(gib << 10));
        let mut growing = share_record("a", 1, &[("s1", 5), ("s2", 7)]);
        (
            growing.devices[0].memory_limit,
            growing.devices[0].memory_ceiling,
        ) = (gib(5), gib(80));
        let mut fixed = share_record("b", 1, &[("s3", 9)]);
        fixed.devices[0].memory_limit = gib(9);
        let mut released = fixed.clone();
        released.claim.uid = "c-uid".parse().unwrap();
        released.phase = Phase::Released;
        for record in [&growing, &fixed, &record("whole", &[2])] {
            journal.write(record).unwrap();
        }
        std::fs::write(journal.path(&fixed.claim.uid), "damage").unwrap();
        let found = journal.promised().unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|share| (share.share.as_str(), share.guarantee, share.ceiling))
            .collect();
        let share = |record: &Record| {
            let (_, name) = record.devices[0].cdi_id.split_once('=').unwrap();
            name.to_owned()
        };
        let (a, b) = (share(&growing), share(&fixed));
        let (five, eighty, nine) = (gib(5).unwrap(), gib(80).unwrap(), gib(9).unwrap());
        assert_eq!(
            found,
            [(a.as_str(), five, eighty), (b.as_str(), nine, nine)]
        );
    }
}
