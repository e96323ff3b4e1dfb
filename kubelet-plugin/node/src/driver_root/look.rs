//! One look into a driver root: walks the tables of [`files`] over the folders that are there.

use std::io;
use std::path::PathBuf;

use tessera_device::DriverVersion;
use tessera_driver_root::folders::{BINARY_FOLDERS, LIBRARY_FOLDERS, NVML, join};
use tessera_driver_root::{Fingerprint, Kind, Tree};
use tessera_prepare::cdi::{DriverFile, DriverInstall};

use super::files::{
    self, ALWAYS_LINKED, CONTROL_NODES, FIRMWARE_FOLDERS, IMEX_CONTROL, LDCONFIGS, NVIDIA_SMI,
    PROGRAMS, SOCKETS, is_firmware, missing_links,
};
use super::{DriverRoot, DriverRootError};

/// Links of udev that say which PCI device a DRM node belongs to.
const DRM_LINKS: &str = "/dev/dri/by-path";

/// An open driver root.
pub(super) struct Look<'a> {
    root: &'a DriverRoot,
    tree: Tree,
}

impl<'a> Look<'a> {
    pub(super) fn into_root(root: &'a DriverRoot) -> Result<Self, DriverRootError> {
        let tree = Tree::open(&root.mounted).map_err(|source| DriverRootError::OpenRoot {
            mounted: root.mounted.clone(),
            host: root.host.clone(),
            source,
        })?;
        Ok(Self { root, tree })
    }

    /// The NVML library, links resolved.
    pub(super) fn nvml(&self) -> Result<Option<String>, DriverRootError> {
        self.said(NVML, self.tree.first(&LIBRARY_FOLDERS, NVML))
    }

    /// The program `nvidia-smi`, links resolved.
    pub(super) fn smi(&self) -> Result<Option<String>, DriverRootError> {
        self.said(NVIDIA_SMI, self.tree.first(&BINARY_FOLDERS, NVIDIA_SMI))
    }

    /// The program `nvidia-imex-ctl`, links resolved.
    pub(super) fn imex_control(&self) -> Result<Option<String>, DriverRootError> {
        self.said(IMEX_CONTROL, self.tree.first(&BINARY_FOLDERS, IMEX_CONTROL))
    }

    pub(super) fn sockets(&self) -> Result<Vec<DriverFile>, DriverRootError> {
        self.files(&SOCKETS, Kind::Socket)
    }

    /// The host path of the first `ldconfig`.
    pub(super) fn ldconfig(&self) -> Result<Option<String>, DriverRootError> {
        let found = self.files(&LDCONFIGS, Kind::File)?;
        Ok(found.into_iter().next().map(|file| file.host))
    }

    pub(super) fn has_devices(&self) -> Result<bool, DriverRootError> {
        Ok(self.resolve("dev", Kind::Folder)?.is_some())
    }

    pub(super) fn local(&self, path: &str) -> PathBuf {
        self.tree.local(path)
    }

    pub(super) fn fingerprint<'p>(&self, paths: impl Iterator<Item = &'p str>) -> Fingerprint {
        self.tree.fingerprint(paths)
    }

    /// Libraries are looked for in the usual folders, and where NVML really is: distributions that
    /// keep several drivers apart have links in the usual folders only.
    pub(super) fn libraries(
        &self,
        version: &DriverVersion,
        install: &mut DriverInstall,
    ) -> Result<(), DriverRootError> {
        let nvml = self.nvml()?;
        let real = nvml.as_deref().and_then(|path| path.rsplit_once('/'));
        let real = real.map(|(folder, _)| format!("{folder}/"));
        let mut folders = Vec::new();
        for folder in LIBRARY_FOLDERS.into_iter().chain(real.as_deref()) {
            folders.extend(self.resolve(folder, Kind::Folder)?);
        }
        folders.sort();
        folders.dedup();
        for folder in folders {
            self.libraries_in(&folder, version, install)?;
        }
        sort(&mut install.libraries);
        install.links.sort();
        Ok(())
    }

    fn libraries_in(
        &self,
        folder: &str,
        version: &DriverVersion,
        install: &mut DriverInstall,
    ) -> Result<(), DriverRootError> {
        let names = self.names(folder)?;
        let chosen = files::libraries(&names, version);
        let mut here = Vec::new();
        for name in &chosen {
            if let Some(path) = self.resolve(&join(folder, name), Kind::File)? {
                here.push(path);
            }
        }
        let mut links = Vec::new();
        for name in files::link_candidates(&names, &chosen) {
            let path = join(folder, name);
            let (Some(text), Some(leads_to)) =
                (self.link_text(&path)?, self.resolve(&path, Kind::File)?)
            else {
                continue;
            };
            if here.contains(&leads_to) {
                links.push(files::link(path, &text, leads_to));
            }
        }
        links.extend(missing_links(folder, &ALWAYS_LINKED, &here, &links));
        install.links.extend(links);
        install
            .libraries
            .extend(here.into_iter().map(|path| self.file(&path, &path)));
        Ok(())
    }

    /// A program keeps the name under which it is called, whatever it is a link to.
    pub(super) fn programs(&self) -> Result<Vec<DriverFile>, DriverRootError> {
        let mut found = Vec::new();
        for program in PROGRAMS {
            for folder in BINARY_FOLDERS {
                let Some(folder) = self.resolve(folder, Kind::Folder)? else {
                    continue;
                };
                let called = join(&folder, program);
                if let Some(path) = self.resolve(&called, Kind::File)? {
                    found.push(self.file(&path, &called));
                    break;
                }
            }
        }
        sort(&mut found);
        Ok(found)
    }

    pub(super) fn firmware(
        &self,
        version: &DriverVersion,
    ) -> Result<Vec<DriverFile>, DriverRootError> {
        let mut found = Vec::new();
        for folder in FIRMWARE_FOLDERS {
            let folder = format!("{folder}/{version}");
            let Some(folder) = self.resolve(&folder, Kind::Folder)? else {
                continue;
            };
            let names = self.names(&folder)?;
            for name in names.iter().filter(|name| is_firmware(name)) {
                if let Some(path) = self.resolve(&join(&folder, name), Kind::File)? {
                    found.push(self.file(&path, &path));
                }
            }
        }
        sort(&mut found);
        Ok(found)
    }

    pub(super) fn devices(&self, install: &mut DriverInstall) -> Result<(), DriverRootError> {
        install.control_nodes = self.files(&CONTROL_NODES, Kind::Device)?;
        install.gpu_nodes = self.file("/dev", "/dev").host;
        for name in self.names(DRM_LINKS)? {
            let Some(address) = files::drm_owner(&name) else {
                continue;
            };
            if let Some(node) = self.resolve(&join(DRM_LINKS, &name), Kind::Device)? {
                let file = self.file(&node, &node);
                install.drm_nodes.entry(address).or_default().push(file);
            }
        }
        install.drm_nodes.values_mut().for_each(sort);
        Ok(())
    }

    /// A file of this root: at `path` for the host, at `container` for containers.
    fn file(&self, path: &str, container: &str) -> DriverFile {
        let host = self.root.host.to_string_lossy();
        DriverFile {
            host: format!("{}{path}", host.trim_end_matches('/')),
            container: container.to_owned(),
        }
    }

    /// Those of the paths that lead to something of this kind, in the order of the paths.
    fn files(&self, paths: &[&str], kind: Kind) -> Result<Vec<DriverFile>, DriverRootError> {
        let mut found: Vec<DriverFile> = Vec::new();
        for path in paths {
            let Some(path) = self.resolve(path, kind)? else {
                continue;
            };
            let file = self.file(&path, &path);
            if !found.contains(&file) {
                found.push(file);
            }
        }
        Ok(found)
    }

    fn resolve(&self, path: &str, kind: Kind) -> Result<Option<String>, DriverRootError> {
        self.said(path, self.tree.resolve(path, kind))
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, DriverRootError> {
        self.said(folder, self.tree.names(folder))
    }

    fn link_text(&self, path: &str) -> Result<Option<String>, DriverRootError> {
        self.said(path, self.tree.link_text(path))
    }

    fn said<T>(&self, path: &str, answer: io::Result<T>) -> Result<T, DriverRootError> {
        answer.map_err(|source| DriverRootError::Look {
            host: self.root.host.clone(),
            path: path.to_owned(),
            source,
        })
    }
}

fn sort(files: &mut Vec<DriverFile>) {
    files.sort();
    files.dedup();
}
