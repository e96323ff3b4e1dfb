//! What differs between the drivers that this program can run as.

use std::path::PathBuf;
use std::sync::Arc;

use tessera_prepare::cdi::CdiKind;
use tessera_prepare::record::RecordedDevice;
use tessera_proto::DraResourceHealth;

use super::assembly::Assembly;
use crate::args::Args;
use crate::events::Notices;
use crate::hardware::HardwareWatch;
use crate::journal::JournalOf;
use crate::offering::Planned;
use crate::reconcile::LookAfter;
use crate::rpc::ClaimWork;
use crate::wait::Waits;

/// A driver, as far as it differs from the others. Everything else is the same for all.
pub(super) trait Role {
    /// What its records keep of a device.
    type Device: RecordedDevice;
    /// Who works on its claims.
    type Claims: ClaimWork + LookAfter;
    /// The health of its devices.
    type Health: DraResourceHealth;

    /// Kind of its CDI devices.
    fn cdi_kind() -> CdiKind;

    /// The hook that its containers run, if they run any.
    fn hook(assembly: &Assembly<'_>) -> anyhow::Result<Option<PathBuf>>;

    /// Where to tell of drivers and GPUs that come and go.
    fn hardware_news(notices: &Notices) -> Notices;

    /// Who works on its claims, with the directories made that they need.
    fn claims(
        assembly: &Assembly<'_>,
        journal: JournalOf<Self::Device>,
        hardware: HardwareWatch,
        waits: Waits,
    ) -> anyhow::Result<Self::Claims>;

    /// Takes over what the reference's driver of this name has prepared, before anybody is served.
    fn take_over(
        assembly: &mut Assembly<'_>,
        claims: &Self::Claims,
        notices: &Notices,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// What it offers.
    fn planned(assembly: &mut Assembly<'_>, claims: &Arc<Self::Claims>) -> Planned;

    /// The health of its devices.
    fn health(args: &Args, hardware: &HardwareWatch) -> Self::Health;

    /// Starts the parts that no other driver has.
    fn start_others(
        assembly: &mut Assembly<'_>,
        claims: &Arc<Self::Claims>,
        journal: &JournalOf<Self::Device>,
        hardware: &HardwareWatch,
    );
}
