//! The programs of Kubernetes: which, from which pinned module, built how, and where they are kept.
//!
//! Each family is built from a Go module in `e2e/programs` whose `go.mod` and `go.sum` pin versions and checksums. The cache is
//! keyed by those files and the flags, so what lies in it is never stale and may be deleted at any time.

mod build;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

pub(crate) use build::kubelet;
pub use build::{Programs, obtain};

use crate::digest;
use crate::packages::PackagesError;
use crate::process::RunError;
use crate::release::Release;

/// Programs that are built in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Family {
    /// By which the cache names them.
    pub(crate) name: &'static str,
    /// The directory of their Go module below `e2e/programs`. Families of one module have the same versions of what they
    /// import, which is compiled once for all of them.
    pub(crate) module: &'static str,
    /// The source of a program that is no other module's, below the module.
    pub(crate) own: Option<&'static str>,
    pub(crate) programs: &'static [Program],
    pub(crate) tags: &'static str,
    /// What the linker sets, as `-X` takes it.
    pub(crate) set: &'static [&'static str],
    pub(crate) cgo: bool,
}

/// One program: its file's name and its Go package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

/// Control plane, kubelet and kubectl.
const KUBERNETES: &[Program] = &[
    program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    program(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];

/// What a node of another release than the control plane's has of it.
const KUBELET: &[Program] = &[program("kubelet", "k8s.io/kubernetes/cmd/kubelet")];

/// Everything that a cluster runs, in the order in which it is built.
pub(crate) fn families(kubernetes: Release) -> Vec<Family> {
    let mut families = vec![kubernetes.family()];
    families.extend(OTHERS);
    families
}

/// The module of the newest Kubernetes. What stands on the same libraries is built from it for every Kubernetes.
const TOOLS: &str = "kubernetes";

/// What is the same for every Kubernetes.
const OTHERS: &[Family] = &[
    Family {
        name: "containerd",
        module: "containerd",
        own: None,
        programs: &[
            program(
                "containerd",
                "github.com/containerd/containerd/v2/cmd/containerd",
            ),
            program("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
            program(
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
        ],
        tags: "no_btrfs,no_zfs,no_devmapper",
        set: &[],
        cgo: false,
    },
    Family {
        name: "runc",
        module: "runc",
        own: None,
        programs: &[program("runc", "github.com/opencontainers/runc")],
        tags: "seccomp",
        set: &[],
        cgo: true,
    },
    Family {
        name: "etcd",
        module: TOOLS,
        own: None,
        programs: &[program("etcd", "go.etcd.io/etcd/server/v3")],
        tags: "",
        set: &[],
        cgo: false,
    },
    Family {
        name: "cni",
        module: "cni",
        own: None,
        programs: &[
            program(
                "bridge",
                "github.com/containernetworking/plugins/plugins/main/bridge",
            ),
            program(
                "host-local",
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
            ),
            program(
                "loopback",
                "github.com/containernetworking/plugins/plugins/main/loopback",
            ),
        ],
        tags: "",
        set: &[],
        cgo: false,
    },
    Family {
        name: "coredns",
        module: TOOLS,
        own: Some("coredns/main.go"),
        programs: &[program(
            "coredns",
            "github.com/tessera-dra/tessera/e2e/programs/kubernetes/coredns",
        )],
        tags: "",
        set: &[],
        cgo: false,
    },
    Family {
        name: "helm",
        module: TOOLS,
        own: None,
        programs: &[program("helm", "helm.sh/helm/v3/cmd/helm")],
        tags: "",
        set: &[],
        cgo: false,
    },
];

/// A program could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// There is no Go.
    #[error(
        "build {family}: Go is not in PATH; install Go {wanted} or later (https://go.dev/dl), it builds the programs of the cluster"
    )]
    NoGo {
        /// The first family that needs it.
        family: &'static str,
        /// The version that its module asks for.
        wanted: String,
    },
    /// A package of the machine is missing.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// The build failed.
    #[error("build {program} from {}", module.display())]
    Build {
        /// Which.
        program: &'static str,
        /// Its module's directory.
        module: PathBuf,
        /// Why.
        source: RunError,
    },
    /// The cache could not be read or written.
    #[error("keep the programs in {} (TESSERA_CACHE names another directory)", path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A module's files are missing.
    #[error("read the module {}", path.display())]
    Module {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Family {
    /// A Kubernetes.
    pub(crate) const fn of_kubernetes(name: &'static str, set: &'static [&'static str]) -> Self {
        Self {
            name,
            module: name,
            own: None,
            programs: KUBERNETES,
            tags: "",
            set,
            cgo: false,
        }
    }

    /// The kubelet alone of a Kubernetes, where the whole of it keeps it.
    fn kubelet_alone(self) -> Self {
        Self {
            programs: KUBELET,
            ..self
        }
    }

    /// The arguments of `go build` but for the output and the package.
    fn flags(&self) -> Vec<String> {
        let set = self.set.iter().map(|variable| format!(" -X {variable}"));
        let linker = std::iter::once("-s -w".to_owned())
            .chain(set)
            .collect::<String>();
        let mut flags = vec![
            "-trimpath".to_owned(),
            "-buildvcs=false".to_owned(),
            "-mod=readonly".to_owned(),
            // The linker leaves it out anyway (`-w`), and the compiler is done a tenth sooner without.
            "-gcflags=all=-dwarf=false".to_owned(),
        ];
        flags.push(format!("-ldflags={linker}"));
        if !self.tags.is_empty() {
            flags.push(format!("-tags={}", self.tags));
        }
        flags
    }

    fn cgo_enabled(&self) -> &'static str {
        if self.cgo { "1" } else { "0" }
    }

    /// What everything built from these files with these flags is kept under.
    fn key(&self, sources: &[Vec<u8>], architecture: &str) -> String {
        let mut hash = Sha256::new();
        let flags = self.flags().join("\n");
        let rest = [
            flags.as_bytes(),
            self.cgo_enabled().as_bytes(),
            architecture.as_bytes(),
        ];
        for part in sources.iter().map(Vec::as_slice).chain(rest) {
            // Lengths keep a byte that moves from one part to the next from going unnoticed.
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let digest = digest::hex(&hash.finalize()[..8]);
        format!("{}-{digest}", self.name)
    }

    /// Where the family's programs are kept for the files that `modules` holds now.
    fn home(&self, modules: &Path, cache: &Path) -> Result<PathBuf, ProgramsError> {
        let read = |file: &str| {
            let path = modules.join(self.module).join(file);
            fs::read(&path).map_err(|source| ProgramsError::Module { path, source })
        };
        let sources = ["go.mod", "go.sum"].into_iter().chain(self.own).map(read);
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let key = self.key(&sources, std::env::consts::ARCH);
        Ok(cache.join("programs").join(key))
    }
}

/// Where things are kept between runs and outside the checkout: the first of these that the environment names.
pub(crate) fn cache_dir(
    tessera: Option<PathBuf>,
    xdg: Option<PathBuf>,
    home: Option<PathBuf>,
) -> PathBuf {
    let named = |path: &PathBuf| path.is_absolute();
    tessera
        .filter(named)
        .or_else(|| xdg.filter(named).map(|dir| dir.join("tessera")))
        .or_else(|| home.filter(named).map(|dir| dir.join(".cache/tessera")))
        .unwrap_or_else(|| PathBuf::from("/var/cache/tessera"))
}

/// [`cache_dir`] for this process.
pub(crate) fn cache_of_environment() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    cache_dir(
        variable("TESSERA_CACHE"),
        variable("XDG_CACHE_HOME"),
        variable("HOME"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(name: &str) -> Family {
        let mut all = families(Release::default()).into_iter();
        all.find(|family| family.name == name).unwrap()
    }

    #[test]
    fn a_key_changes_with_each_thing_that_changes_the_program() {
        let runc = family("runc");
        let key = |m: &str, s: &str, a: &str| runc.key(&[m.into(), s.into()], a);
        let base = key("mod", "sum", "x86_64");
        assert_eq!(base, key("mod", "sum", "x86_64"));
        for other in [
            key("mod2", "sum", "x86_64"),
            key("mod", "sum2", "x86_64"),
            key("mods", "um", "x86_64"),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(base, key("mod", "sum", "aarch64"));
        let sources = ["mod".into(), "sum".into()];
        let plain = Family { tags: "", ..runc };
        assert_ne!(base, plain.key(&sources, "x86_64"));
        let without_cgo = Family { cgo: false, ..runc };
        assert_ne!(base, without_cgo.key(&sources, "x86_64"));
        assert!(base.starts_with("runc-"));
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let path = |p: &str| Some(PathBuf::from(p));
        for (tessera, xdg, home, wanted) in [
            (path("/t"), path("/x"), path("/h"), "/t"),
            (None, path("/x"), path("/h"), "/x/tessera"),
            (None, None, path("/h"), "/h/.cache/tessera"),
            (path("relative"), path(""), path("/h"), "/h/.cache/tessera"),
            (None, None, None, "/var/cache/tessera"),
        ] {
            assert_eq!(cache_dir(tessera, xdg, home), PathBuf::from(wanted));
        }
    }

    #[test]
    fn every_program_is_a_tool_of_its_module_and_no_two_share_a_name() {
        let modules = crate::paths::checkout().join("e2e/programs");
        for release in Release::ALL {
            let mut names = Vec::new();
            for family in families(release) {
                let text = fs::read_to_string(modules.join(family.module).join("go.mod")).unwrap();
                for program in family.programs {
                    assert!(
                        text.contains(program.package),
                        "{} is no tool of {}",
                        program.package,
                        family.module
                    );
                    names.push(program.name);
                }
            }
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
