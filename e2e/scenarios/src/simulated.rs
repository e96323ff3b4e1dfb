//! The simulated driver of a node, as a scenario changes it and puts it right again.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tessera_cluster::Node;
use tessera_hw::install::keep;
use tessera_hw::state::{Gpu, Presence};
use tessera_hw::{Artifacts, Effect, Fabric, Injection, LayoutError, Repeat, Replaced, TimeSlice};

use crate::failure::Failure;

/// The driver of a node, whole again when this value ends.
pub(crate) struct Driver<'a> {
    node: &'a Node,
    profile: &'a str,
    root: PathBuf,
    kept: TempDir,
    /// The fabric of each GPU before another one was given to it.
    fabric: Vec<Option<Fabric>>,
    left: Left,
}

/// Programs that do not come with the driver itself.
const BESIDE: [&str; 2] = tessera_cluster::IMEX;

/// What is left to put right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The state of the GPUs or the injections.
    State,
    /// The files too: they are not those that the node came up with.
    Files,
}

impl<'a> Driver<'a> {
    /// That of `node`, which must have one.
    pub(crate) fn of(node: &'a Node) -> Result<Self, Failure> {
        let what = || Failure::wrong(format!("{} has no simulated driver", node.name()));
        let kept = tempfile::tempdir()
            .map_err(|error| Failure::wrong(format!("make a temporary directory: {error}")))?;
        let driver = Self {
            node,
            profile: node.profile().ok_or_else(what)?,
            root: node.driver_root(),
            kept,
            fabric: Vec::new(),
            left: Left::Nothing,
        };
        driver.done(
            "keep the programs of",
            keep(&driver.root, &driver.artifacts()),
        )?;
        for name in BESIDE {
            let (from, to) = (
                driver.root.join("usr/bin").join(name),
                driver.kept.path().join(name),
            );
            // One that a driver does not have is not missed.
            let _ = fs::copy(from, to);
        }
        Ok(driver)
    }

    /// Removes it, as a driver container does that ends.
    pub(crate) fn remove(&mut self) -> Result<(), Failure> {
        self.left = Left::Files;
        self.done("remove", tessera_hw::uninstall(&self.root))
    }

    /// Installs it as it was when the cluster came up.
    pub(crate) fn install(&mut self) -> Result<(), Failure> {
        self.install_as(self.profile)?;
        self.left = Left::Nothing;
        Ok(())
    }

    /// Puts another machine's GPUs in place of the node's, with their driver.
    pub(crate) fn exchange(&mut self, profile: &str) -> Result<(), Failure> {
        self.left = Left::Files;
        self.install_as(profile)
    }

    fn install_as(&self, profile: &str) -> Result<(), Failure> {
        let artifacts = self.artifacts();
        let name = self.node.name();
        let installed = tessera_hw::install(&self.root, profile, name, &artifacts);
        self.done("install", installed)?;
        for name in BESIDE {
            let program = self.kept.path().join(name);
            if program.exists() {
                let added = tessera_hw::install::add_programs(&self.root, &[(name, &program)]);
                self.done("install programs of", added)?;
            }
        }
        Ok(())
    }

    /// Puts another version in its place.
    pub(crate) fn upgrade(&mut self, version: &str) -> Result<(), Failure> {
        self.left = Left::Files;
        let upgraded = tessera_hw::upgrade(&self.root, version, Replaced::Everything);
        self.done("upgrade", upgraded)
    }

    /// Changes whether a GPU answers.
    pub(crate) fn set(&mut self, minor: usize, presence: Presence) -> Result<(), Failure> {
        self.change(|node| {
            if let Some(gpu) = node.gpus.get_mut(minor) {
                gpu.condition.presence = presence;
            }
        })
    }

    /// Cuts a GPU into MIG devices of these profiles, as a MIG manager does while the plugin runs.
    pub(crate) fn cut(&mut self, minor: usize, profiles: &[&str]) -> Result<(), Failure> {
        self.try_to_change(|node| match node.gpus.get_mut(minor) {
            Some(gpu) => gpu.cut(profiles),
            None => Ok(()),
        })
    }

    /// Switches the MIG mode of every GPU on, as an administrator does before the node is used.
    pub(crate) fn switch_mig_on(&mut self) -> Result<(), Failure> {
        self.try_to_change(|node| node.gpus.iter_mut().try_for_each(|gpu| gpu.cut(&[])))
    }

    /// Holds the MIG device open that begins at this memory slice of a GPU, as monitoring does.
    pub(crate) fn hold(&mut self, minor: usize, start: u32) -> Result<(), Failure> {
        self.change(|node| {
            let mig = node.gpus.get_mut(minor).map(|gpu| &mut gpu.condition.mig);
            if let Some(mig) = mig {
                let there = mig.instances.iter().filter(|there| there.start == start);
                mig.held.extend(there.map(|there| there.gpu_instance));
            }
        })
    }

    /// Lets go of all MIG devices that are held open.
    pub(crate) fn let_go(&mut self) -> Result<(), Failure> {
        self.change(|node| {
            let each = node.gpus.iter_mut();
            each.for_each(|gpu| gpu.condition.mig.held.clear());
        })
    }

    /// How many MIG devices there are on the node, those half made included.
    pub(crate) fn mig_devices(&self) -> Result<usize, Failure> {
        let count = |gpu: &Gpu| gpu.condition.mig.instances.len() + gpu.condition.mig.bare.len();
        self.look(|gpus| gpus.iter().map(count).sum())
    }

    /// How many GPUs have MIG devices.
    pub(crate) fn cut_gpus(&self) -> Result<usize, Failure> {
        let is_cut = |gpu: &&Gpu| !gpu.condition.mig.instances.is_empty();
        self.look(|gpus| gpus.iter().filter(is_cut).count())
    }

    /// How many GPUs are in MIG mode.
    pub(crate) fn gpus_in_mig_mode(&self) -> Result<usize, Failure> {
        self.look(|gpus| gpus.iter().filter(|gpu| gpu.condition.mig.enabled).count())
    }

    /// The GPUs whose time slice is not the driver's own, by their UUIDs.
    pub(crate) fn time_slices(&self) -> Result<Vec<(String, TimeSlice)>, Failure> {
        let set = |gpu: &Gpu| (gpu.facts.uuid.clone(), gpu.condition.time_slice);
        let is_set = |set: &(String, TimeSlice)| set.1 != TimeSlice::Default;
        self.look(|gpus| gpus.iter().map(set).filter(is_set).collect())
    }

    /// Sets the time slice of a GPU, as an administrator does by hand.
    pub(crate) fn set_time_slice(&mut self, uuid: &str, slice: TimeSlice) -> Result<(), Failure> {
        self.change(|node| {
            if let Some(gpu) = node.gpu_mut(uuid) {
                gpu.condition.time_slice = slice;
            }
        })
    }

    fn look<T>(&self, look: impl FnOnce(&[Gpu]) -> T) -> Result<T, Failure> {
        let looked = tessera_hw::install::change(&self.root, |node| {
            Ok::<_, tessera_hw::InstallError>(look(&node.gpus))
        });
        looked.map_err(|error| self.failed("look at", &error))
    }

    /// Asks for a MIG mode that waits for a reset.
    pub(crate) fn await_mig(&mut self, minor: usize, enabled: bool) -> Result<(), Failure> {
        self.try_to_change(|node| match node.gpus.get_mut(minor) {
            Some(gpu) => gpu.await_mode(enabled),
            None => Ok(()),
        })
    }

    /// Puts all GPUs into a fabric that spans the nodes of a rack, and has that noticed at once.
    pub(crate) fn join_fabric(&mut self, rack: &str, clique: u32) -> Result<(), Failure> {
        self.fabric = self.look(|gpus| gpus.iter().map(|gpu| gpu.fabric.clone()).collect())?;
        let fabric = Fabric::of_rack(rack, clique);
        self.change(|node| {
            for gpu in &mut node.gpus {
                gpu.fabric = Some(fabric.clone());
            }
        })?;
        self.stir()
    }

    /// Gives all GPUs the fabric that they had.
    pub(crate) fn leave_fabric(&mut self) -> Result<(), Failure> {
        let former = std::mem::take(&mut self.fabric);
        self.change(|node| {
            for (gpu, fabric) in node.gpus.iter_mut().zip(former) {
                gpu.fabric = fabric;
            }
        })?;
        self.left = Left::Nothing;
        self.stir()
    }

    /// Lets all calls of a function hang in the processes of a program, in whatever container.
    pub(crate) fn hang(&mut self, function: &str, program: &str) -> Result<(), Failure> {
        let hang = Injection::new(function, 1, Repeat::Always, Effect::Hang).in_each(program);
        self.change(|node| {
            node.inject(hang);
        })
    }

    /// Makes every GPU healthy again and lets calls that hang go on. Files that were replaced stay.
    pub(crate) fn heal(&mut self) -> Result<(), Failure> {
        self.change(tessera_hw::Node::reset)?;
        if self.left == Left::State {
            self.left = Left::Nothing;
        }
        Ok(())
    }

    /// Changes something about the files, so that whoever watches them looks again at once.
    pub(crate) fn stir(&self) -> Result<(), Failure> {
        let file = self.root.join("usr/lib64/.stirred");
        let done = fs::write(&file, "").and_then(|()| fs::remove_file(&file));
        done.map_err(|reason| Failure::File { path: file, reason })
    }

    fn change(&mut self, change: impl FnOnce(&mut tessera_hw::Node)) -> Result<(), Failure> {
        self.try_to_change(|node| {
            change(node);
            Ok(())
        })
    }

    fn try_to_change(
        &mut self,
        change: impl FnOnce(&mut tessera_hw::Node) -> Result<(), LayoutError>,
    ) -> Result<(), Failure> {
        if self.left == Left::Nothing {
            self.left = Left::State;
        }
        let changed = tessera_hw::install::change(&self.root, |node| {
            change(node).map_err(tessera_hw::InstallError::from)
        });
        self.done("change the state of", changed)
    }

    fn artifacts(&self) -> Artifacts {
        Artifacts {
            nvml: self.kept.path().join("libnvidia-ml.so"),
            nvidia_smi: self.kept.path().join("nvidia-smi"),
        }
    }

    fn done<T>(
        &self,
        attempt: &str,
        outcome: Result<T, tessera_hw::InstallError>,
    ) -> Result<(), Failure> {
        outcome
            .map(drop)
            .map_err(|error| self.failed(attempt, &error))
    }

    fn failed(&self, attempt: &str, error: &dyn std::error::Error) -> Failure {
        let node = self.node.name();
        Failure::wrong(format!("{attempt} the driver of {node}: {error}"))
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        if self.left != Left::Nothing && self.install().is_err() {
            eprintln!("the driver of {} is left changed", self.node.name());
        }
    }
}

/// A node whose GPUs hang on the switches of another rack as long as this value lives.
pub(crate) struct Moved<'a> {
    node: &'a Node,
    before: Vec<Option<Fabric>>,
}

impl<'a> Moved<'a> {
    /// Moves the GPUs of `node` to a rack.
    pub(crate) fn to(node: &'a Node, rack: &str) -> Result<Self, Failure> {
        let moved = change_fabrics(node, |node| {
            let before = node.gpus.iter().map(|gpu| gpu.fabric.clone()).collect();
            node.join_rack(rack);
            before
        })?;
        Ok(Self {
            node,
            before: moved,
        })
    }
}

impl Drop for Moved<'_> {
    fn drop(&mut self) {
        let before = std::mem::take(&mut self.before);
        let back = change_fabrics(self.node, |node| {
            for (gpu, fabric) in node.gpus.iter_mut().zip(before) {
                gpu.fabric = fabric;
            }
        });
        if back.is_err() {
            eprintln!("the GPUs of {} are left in another rack", self.node.name());
        }
    }
}

/// Changes something about a node's fabric, and something about its driver's files, so that it is seen at once.
fn change_fabrics<T>(
    node: &Node,
    change: impl FnOnce(&mut tessera_hw::Node) -> T,
) -> Result<T, Failure> {
    let root = node.driver_root();
    let changed = tessera_hw::install::change(&root, |node| Ok(change(node)));
    let changed = changed.map_err(|error: tessera_hw::InstallError| {
        Failure::wrong(format!("move the GPUs of {}: {error}", node.name()))
    })?;
    let file = root.join("usr/lib64/.stirred");
    fs::write(&file, "")
        .and_then(|()| fs::remove_file(&file))
        .map_err(|reason| Failure::File { path: file, reason })?;
    Ok(changed)
}
