//! Who has a share.

use std::fmt;

use tessera_claim::ClaimRef;

/// One share of a device, by the claim that it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder {
    /// The claim.
    pub claim: ClaimRef,
    /// Which share of the device it is (`shareID` of the allocation, KEP 5075): a claim can have
    /// several of one device. `None` where devices are not shared.
    pub share: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, share } = self;
        write!(f, "claim {claim}")?;
        match share {
            Some(share) => write!(f, ", share {share}"),
            None => Ok(()),
        }
    }
}
