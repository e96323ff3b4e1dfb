//! The profiles that a GPU has, with the places where instances of them can lie.

use std::rc::Rc;

use nvml_wrapper::Device;
use nvml_wrapper::struct_wrappers::device::ProfileInfo;
use nvml_wrapper_sys::bindings::{NVML_GPU_INSTANCE_PROFILE_COUNT, NvmlLib};
use tessera_device::Bytes;
use tessera_device::mig::{Extras, MigEngines, MigOption, MigProfile};

use super::placement;
use crate::{names, raw};

/// A profile, and what it has beside others of its size.
pub(crate) struct Known {
    pub(super) extras: Extras,
    pub(super) info: ProfileInfo,
}

impl Known {
    /// What it is called on a GPU with so much memory, when one compute instance has all of it.
    pub(super) fn profile(&self, memory: Bytes) -> Option<MigProfile> {
        let slices = u8::try_from(self.info.slice_count).ok()?;
        let own = Bytes::from_mib(self.info.memory_size_mb);
        Some(MigProfile::of(slices, slices, own, memory, self.extras))
    }

    pub(super) fn id(&self) -> Option<u16> {
        u16::try_from(self.info.id).ok()
    }

    pub(super) fn engines(&self) -> MigEngines {
        let info = &self.info;
        MigEngines {
            copy: info.copy_engine_count,
            decoders: info.decoder_count,
            encoders: info.encoder_count,
            jpeg: info.jpeg_count,
            ofa: info.ofa_count,
        }
    }
}

/// All profiles of a GPU.
pub(crate) struct Profiles {
    pub(super) known: Vec<Known>,
    pub(super) options: Vec<MigOption>,
}

impl Profiles {
    /// Asks the GPU. NVML tells profiles one by one, and says of most that there is none.
    pub(crate) fn ask(library: &NvmlLib, gpu: &Device<'_>, memory: Bytes) -> Self {
        let each = (0..NVML_GPU_INSTANCE_PROFILE_COUNT).filter_map(|index| {
            let info = gpu.profile_info(index).ok()?;
            let extras = names::extras(index);
            Some(Known { extras, info })
        });
        let known: Vec<Known> = each.collect();
        let options = known.iter();
        let options = options.filter_map(|known| option(library, gpu, memory, known));
        Self {
            options: options.collect(),
            known,
        }
    }
}

/// A profile with its places. One of which NVML tells no place is none.
fn option(library: &NvmlLib, gpu: &Device<'_>, memory: Bytes, known: &Known) -> Option<MigOption> {
    let Known { info, .. } = known;
    let placements = match raw::possible_placements(library, gpu, info.id) {
        Ok(placements) => placements.into_iter().filter_map(placement),
        Err(error) => {
            let profile = info.id;
            tracing::debug!(profile, %error, "NVML does not tell the placements of a profile");
            return None;
        }
    };
    let mut placements: Vec<_> = placements.collect();
    placements.sort_unstable();
    Some(MigOption {
        profile: known.profile(memory)?,
        profile_id: known.id()?,
        instances: info.instance_count,
        memory: Bytes::from_mib(info.memory_size_mb),
        multiprocessors: info.multiprocessor_count,
        engines: known.engines(),
        placements,
    })
}

/// What the GPUs of one look have told of their profiles. Those of one product have the same, so only
/// the first of them is asked.
#[derive(Default)]
pub(crate) struct Catalogue(Vec<(String, Bytes, Rc<Profiles>)>);

impl Catalogue {
    /// The profiles of this GPU, whose product has this name.
    pub(crate) fn profiles(
        &mut self,
        library: &NvmlLib,
        gpu: &Device<'_>,
        product: &str,
        memory: Bytes,
    ) -> Rc<Profiles> {
        let mut told = self.0.iter();
        let told = told.find(|(name, whole, _)| name == product && *whole == memory);
        if let Some((.., profiles)) = told {
            return profiles.clone();
        }
        let profiles = Rc::new(Profiles::ask(library, gpu, memory));
        // A GPU that did not tell any is none to go by.
        if !profiles.options.is_empty() {
            let entry = (product.to_owned(), memory, profiles.clone());
            self.0.push(entry);
        }
        profiles
    }
}
