//! Which configuration applies to which device of an allocation.
//!
//! # Precedence
//! Configurations of device classes come before those of the claim; within each, a later one counts
//! more. One that names requests applies to the devices of these requests; one that names none
//! applies to every device that its kind fits. A device gets the last that applies to it, alone:
//! configurations are not merged.
//!
//! A configuration that names a request of its own must fit the device, or the claim is refused. One
//! that names a prioritized list as a whole applies to those of its alternatives that it fits: a list
//! of a GPU or else a MIG device has a configuration for either.

use k8s_openapi::api::resource::v1::DeviceAllocationConfiguration;
use tessera_api::{
    Config, ConfigError, Document, Driver, Feature, FieldPath, Kind, ShareConfig, Unsupported,
};
use tessera_device::DeviceName;
use thiserror::Error;

/// Why the configuration of a claim cannot be acted on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigurationRefusal {
    /// It is not what it must be.
    #[error("{error} (it comes from the {origin})")]
    Invalid {
        /// Who wrote it.
        origin: &'static str,
        /// What is wrong with it, and where.
        error: ConfigError,
    },
    /// It asks for a feature that this version does not have.
    #[error("{wish} (it comes from the {origin})")]
    Unsupported {
        /// Who wrote it.
        origin: &'static str,
        /// What it asks for.
        wish: Unsupported,
    },
    /// It is for another type of device than the one that was allocated.
    #[error(
        "{at}: {:?} names request {request}, which was allocated {device}, and does not fit it; \
         write a {fitting} for that request (it comes from the {origin})",
        kind.as_str()
    )]
    Mismatched {
        /// Who wrote it.
        origin: &'static str,
        /// The field that holds the kind.
        at: FieldPath,
        /// Its kind.
        kind: Kind,
        /// The request that it names.
        request: String,
        /// The device that was allocated for it.
        device: DeviceName,
        /// The kind that fits the device.
        fitting: Kind,
    },
    /// It is addressed to a driver that has no configuration kinds.
    #[error("{at}: driver {driver} takes no configuration; remove it (it comes from the {origin})")]
    NoKinds {
        /// Who wrote it.
        origin: &'static str,
        /// The parameters.
        at: FieldPath,
        /// The driver.
        driver: String,
    },
}

/// What applies to one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effective {
    /// The configuration of the device. `None`: nobody wrote one, so that it is used as it is.
    pub(crate) device: Option<Config>,
    /// What the share of it may have, or must be held to.
    pub(crate) share: Option<ShareConfig>,
}

/// The configurations of one allocation that are addressed to one driver, decoded.
pub(crate) struct Configurations<'c> {
    addressed: Vec<Addressed<'c>>,
    features: &'c [Feature],
}

struct Addressed<'c> {
    config: Config,
    requests: &'c [String],
    at: FieldPath,
    origin: &'static str,
}

impl<'c> Configurations<'c> {
    /// Decodes all of them: a mistake is reported even where the configuration would apply to nothing.
    pub(crate) fn decode(
        entries: &'c [DeviceAllocationConfiguration],
        driver: &str,
        features: &'c [Feature],
    ) -> Result<Self, ConfigurationRefusal> {
        let mut class = Vec::new();
        let mut claim = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let Some(opaque) = entry.opaque.as_ref().filter(|o| o.driver == driver) else {
                continue;
            };
            let of_class = entry.source == "FromClass";
            let origin = if of_class { "device class" } else { "claim" };
            let path = format!("status.allocation.devices.config[{index}].opaque.parameters");
            let at = FieldPath::parameters(path);
            let named = Driver::named(driver).ok_or_else(|| ConfigurationRefusal::NoKinds {
                origin,
                at: at.clone(),
                driver: driver.to_owned(),
            })?;
            let document = Document::from(&opaque.parameters.0);
            let config = Config::decode(named, &at, &document)
                .map_err(|error| ConfigurationRefusal::Invalid { origin, error })?;
            let requests = entry.requests.as_deref().unwrap_or_default();
            let tier = if of_class { &mut class } else { &mut claim };
            tier.push(Addressed {
                config,
                requests,
                at,
                origin,
            });
        }
        class.append(&mut claim);
        Ok(Self {
            addressed: class,
            features,
        })
    }

    /// The configuration of `device`, which was allocated for `request` (`main`, or `main/sub` of a
    /// prioritized list).
    ///
    /// Limits of a share are a question of their own: a configuration of the device does not take their
    /// place, nor they its.
    pub(crate) fn effective(
        &self,
        request: &str,
        device: &DeviceName,
    ) -> Result<Effective, ConfigurationRefusal> {
        let fitting = fitting(device);
        let share = if shareable(fitting) {
            self.last(request, device, Kind::ShareConfig, |kind| {
                kind == Kind::ShareConfig
            })?
        } else {
            None
        };
        let of_device = self.last(request, device, fitting, |kind| {
            kind != Kind::ShareConfig || !shareable(fitting)
        })?;
        Ok(Effective {
            device: of_device,
            share: share.and_then(|config| match config {
                Config::Share(share) => Some(share),
                _ => None,
            }),
        })
    }

    /// The last that reaches the device among those whose kind is `asked` for.
    fn last(
        &self,
        request: &str,
        device: &DeviceName,
        fitting: Kind,
        asked: impl Fn(Kind) -> bool,
    ) -> Result<Option<Config>, ConfigurationRefusal> {
        let asked = |addressed: &&Addressed<'_>| asked(addressed.config.kind());
        for addressed in self.addressed.iter().rev().filter(asked) {
            let fits = addressed.config.kind() == fitting;
            match addressed.reach(request) {
                Reach::Device if !fits => return Err(addressed.mismatch(request, device, fitting)),
                Reach::Device | Reach::Fitting if fits => {
                    return addressed.granted(self.features).map(Some);
                }
                Reach::Device | Reach::Fitting | Reach::Nothing => {}
            }
        }
        Ok(None)
    }
}

/// How a configuration relates to a request.
enum Reach {
    /// It is meant for this request alone.
    Device,
    /// It is meant for whatever of the request it fits.
    Fitting,
    /// It is not meant for it.
    Nothing,
}

impl Addressed<'_> {
    fn reach(&self, request: &str) -> Reach {
        let names = |name: &str| self.requests.iter().any(|request| request == name);
        let alternatives = request.split_once('/').map(|(main, _)| main);
        if names(request) {
            Reach::Device
        } else if self.requests.is_empty() || alternatives.is_some_and(names) {
            Reach::Fitting
        } else {
            Reach::Nothing
        }
    }

    fn granted(&self, features: &[Feature]) -> Result<Config, ConfigurationRefusal> {
        match self.config.require(&self.at, features) {
            Ok(()) => Ok(self.config.clone()),
            Err(wish) => Err(ConfigurationRefusal::Unsupported {
                origin: self.origin,
                wish,
            }),
        }
    }

    fn mismatch(&self, request: &str, device: &DeviceName, fitting: Kind) -> ConfigurationRefusal {
        ConfigurationRefusal::Mismatched {
            origin: self.origin,
            at: self.at.field("kind"),
            kind: self.config.kind(),
            request: request.to_owned(),
            device: device.clone(),
            fitting,
        }
    }
}

/// The kind of configuration that a device takes. Its name says what it is, as the reference
/// driver spells names.
fn fitting(device: &DeviceName) -> Kind {
    let name = device.as_str();
    if name.starts_with("channel-") || name.starts_with("slot-") {
        Kind::ComputeDomainChannelConfig
    } else if name.starts_with("daemon-") {
        Kind::ComputeDomainDaemonConfig
    } else if name.starts_with("gpu-vfio-") {
        Kind::VfioDeviceConfig
    } else if name.contains("-mig-") {
        Kind::MigDeviceConfig
    } else {
        Kind::GpuConfig
    }
}

/// Whether devices that take this kind may be shared.
fn shareable(fitting: Kind) -> bool {
    matches!(fitting, Kind::GpuConfig | Kind::MigDeviceConfig)
}

#[cfg(test)]
mod tests;
