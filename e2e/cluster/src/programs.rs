//! The programs of Kubernetes: which, from which pinned module, built how, and where they are kept.
//!
//! Each family has a Go module in `e2e/programs` whose `go.mod` and `go.sum` pin versions and checksums. The cache is keyed
//! by those files and the flags, so what lies in it is never stale and may be deleted at any time.

mod build;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

pub use build::{Programs, obtain};

use crate::digest;
use crate::packages::PackagesError;
use crate::process::RunError;
use crate::release::Release;

/// One Go module and the programs that are built from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Family {
    /// The module's directory below `e2e/programs`, and the cache's.
    pub(crate) name: &'static str,
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

/// Everything that a cluster runs, in the order in which it is built.
pub(crate) fn families(kubernetes: Release) -> Vec<Family> {
    let mut families = vec![kubernetes.family()];
    families.extend(OTHERS);
    families
}

/// What is the same for every Kubernetes.
const OTHERS: &[Family] = &[
    Family {
        name: "containerd",
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
        programs: &[program("runc", "github.com/opencontainers/runc")],
        tags: "seccomp",
        set: &[],
        cgo: true,
    },
    Family {
        name: "etcd",
        programs: &[program("etcd", "go.etcd.io/etcd/server/v3")],
        tags: "",
        set: &[],
        cgo: false,
    },
    Family {
        name: "cni",
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
        programs: &[program("coredns", "github.com/coredns/coredns")],
        tags: "",
        set: &[],
        cgo: false,
    },
    Family {
        name: "helm",
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
            programs: KUBERNETES,
            tags: "",
            set,
            cgo: false,
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
    fn key(&self, go_mod: &[u8], go_sum: &[u8], architecture: &str) -> String {
        let mut hash = Sha256::new();
        let flags = self.flags().join("\n");
        for part in [
            go_mod,
            go_sum,
            flags.as_bytes(),
            self.cgo_enabled().as_bytes(),
            architecture.as_bytes(),
        ] {
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
            let path = modules.join(self.name).join(file);
            fs::read(&path).map_err(|source| ProgramsError::Module { path, source })
        };
        Ok(cache.join("programs").join(self.key(
            &read("go.mod")?,
            &read("go.sum")?,
            std::env::consts::ARCH,
        )))
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
        let key = |m: &str, s: &str, a: &str| runc.key(m.as_bytes(), s.as_bytes(), a);
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
        let plain = Family { tags: "", ..runc };
        assert_ne!(base, plain.key(b"mod", b"sum", "x86_64"));
        let without_cgo = Family { cgo: false, ..runc };
        assert_ne!(base, without_cgo.key(b"mod", b"sum", "x86_64"));
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
                let text = fs::read_to_string(modules.join(family.name).join("go.mod")).unwrap();
                for program in family.programs {
                    assert!(
                        text.contains(program.package),
                        "{} is no tool of {}",
                        program.package,
                        family.name
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
