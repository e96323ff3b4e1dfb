use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tessera_prepare::cdi::{DriverFile, DriverLink, LimitHook};

use super::*;

const VERSION: &str = "580.95.05";

/// A driver root in a temporary folder, for the host at `/run/nvidia/driver`.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self { folder }
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.folder.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(self, path: &str) -> Self {
        fs::write(self.path(path), path).unwrap();
        self
    }

    fn link(self, path: &str, text: &str) -> Self {
        symlink(text, self.path(path)).unwrap();
        self
    }

    /// A character device with the numbers 0:0, which any user may make.
    fn node(self, path: &str) -> Self {
        let (kind, mode) = (FileType::CharacterDevice, Mode::RUSR);
        mknodat(CWD, self.path(path), kind, mode, 0).unwrap();
        self
    }

    fn socket(self, path: &str) -> Self {
        UnixListener::bind(self.path(path)).unwrap();
        self
    }

    fn root(&self) -> DriverRoot {
        DriverRoot::new(self.folder.path(), "/run/nvidia/driver")
    }

    #[track_caller]
    fn discover(&self) -> Discovery {
        discover(&self.root(), &DriverVersion::new(VERSION)).unwrap()
    }

    #[track_caller]
    fn nvml(&self) -> PathBuf {
        let path = find_nvml(&self.root()).unwrap();
        path.strip_prefix(self.folder.path()).unwrap().to_owned()
    }
}

fn at(path: &str) -> DriverFile {
    DriverFile {
        host: format!("/run/nvidia/driver{path}"),
        container: path.to_owned(),
    }
}

fn link(link: &str, target: &str) -> DriverLink {
    let (target, link) = (target.to_owned(), link.to_owned());
    DriverLink { target, link }
}

/// The layout of Red Hat's family, and of a driver container.
fn red_hat() -> Fixture {
    Fixture::new()
        .file("usr/lib64/libcuda.so.580.95.05")
        .link("usr/lib64/libcuda.so", "libcuda.so.1")
        .link("usr/lib64/libcuda.so.1", "libcuda.so.580.95.05")
        .file("usr/lib64/libnvidia-ml.so.580.95.05")
        .link("usr/lib64/libnvidia-ml.so.1", "libnvidia-ml.so.580.95.05")
        .file("usr/lib64/libc.so.6")
        .file("usr/bin/nvidia-smi")
        .file("usr/bin/bash")
        .link("bin", "usr/bin")
        .link("lib64", "usr/lib64")
        .link("lib", "usr/lib")
        .file("usr/lib/firmware/nvidia/580.95.05/gsp_ga10x.bin")
        .file("usr/lib/firmware/nvidia/570.10.01/gsp_ga10x.bin")
        .file("usr/sbin/ldconfig")
        .link("sbin", "usr/sbin")
        .socket("run/nvidia-persistenced/socket")
        .link("var/run", "../run")
        .node("dev/nvidiactl")
        .node("dev/nvidia-uvm")
        .node("dev/nvidia0")
        .node("dev/dri/card1")
        .node("dev/dri/renderD128")
        .link("dev/dri/by-path/pci-0000:1b:00.0-card", "../card1")
        .link("dev/dri/by-path/pci-0000:1b:00.0-render", "../renderD128")
}

#[test]
fn a_driver_container_gives_each_file_once_at_its_path_below_the_root() {
    let Discovery { install, missing } = red_hat().discover();
    assert_eq!(
        install,
        DriverInstall {
            libraries: vec![
                at("/usr/lib64/libcuda.so.580.95.05"),
                at("/usr/lib64/libnvidia-ml.so.580.95.05"),
            ],
            links: vec![
                link("/usr/lib64/libcuda.so", "libcuda.so.1"),
                link("/usr/lib64/libcuda.so.1", "libcuda.so.580.95.05"),
                link("/usr/lib64/libnvidia-ml.so.1", "libnvidia-ml.so.580.95.05"),
            ],
            binaries: vec![at("/usr/bin/nvidia-smi")],
            firmware: vec![at("/usr/lib/firmware/nvidia/580.95.05/gsp_ga10x.bin")],
            sockets: vec![at("/run/nvidia-persistenced/socket")],
            control_nodes: vec![at("/dev/nvidiactl"), at("/dev/nvidia-uvm")],
            gpu_nodes: "/run/nvidia/driver/dev".to_owned(),
            drm_nodes: [(
                "0000:1b:00.0".parse().unwrap(),
                vec![at("/dev/dri/card1"), at("/dev/dri/renderD128")],
            )]
            .into(),
            hook: None,
            limit_hook: LimitHook::default(),
            ldconfig: Some("/run/nvidia/driver/usr/sbin/ldconfig".to_owned()),
        }
    );
    assert_eq!(missing, []);
}

#[test]
fn nvml_is_found_in_each_of_the_usual_layouts_as_the_file_itself() {
    for folder in [
        "",
        "usr/lib64/",
        "usr/lib/x86_64-linux-gnu/",
        "usr/lib/aarch64-linux-gnu/",
        "lib64/",
        "lib/x86_64-linux-gnu/",
    ] {
        let file = format!("{folder}libnvidia-ml.so.580.95.05");
        let fixture = Fixture::new()
            .file(&file)
            .link(&format!("{folder}{NVML}"), "libnvidia-ml.so.580.95.05");
        assert_eq!(fixture.nvml(), PathBuf::from(file));
    }
}

#[test]
fn a_distribution_that_keeps_drivers_apart_is_followed_to_the_real_folder() {
    let real = "/usr/lib/x86_64-linux-gnu/nvidia/current";
    let fixture = Fixture::new()
        .file(&format!("{real}/libnvidia-ml.so.580.95.05"))
        .link(
            &format!("{real}/libnvidia-ml.so.1"),
            "libnvidia-ml.so.580.95.05",
        )
        .file(&format!("{real}/libcuda.so.580.95.05"))
        .link("etc/alternatives/ml", &format!("{real}/libnvidia-ml.so.1"))
        .link(
            "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
            "/etc/alternatives/ml",
        )
        .file("usr/lib/nvidia/current/nvidia-smi")
        .link("usr/bin/nvidia-smi", "/etc/alternatives/nvidia-smi")
        .link(
            "etc/alternatives/nvidia-smi",
            "/usr/lib/nvidia/current/nvidia-smi",
        )
        .node("dev/nvidia-uvm");
    assert_eq!(
        fixture.nvml(),
        PathBuf::from(format!("{}/libnvidia-ml.so.580.95.05", &real[1..]))
    );
    let Discovery { install, missing } = fixture.discover();
    assert_eq!(install.library_folders(), [real]);
    assert_eq!(
        install.links,
        [
            link(&format!("{real}/libcuda.so"), "libcuda.so.580.95.05"),
            link(&format!("{real}/libcuda.so.1"), "libcuda.so.580.95.05"),
            link(
                &format!("{real}/libnvidia-ml.so.1"),
                "libnvidia-ml.so.580.95.05"
            ),
        ]
    );
    let smi = DriverFile {
        host: "/run/nvidia/driver/usr/lib/nvidia/current/nvidia-smi".to_owned(),
        container: "/usr/bin/nvidia-smi".to_owned(),
    };
    assert_eq!(install.binaries, [smi]);
    assert_eq!(missing, []);
}

#[test]
fn a_link_that_leads_nowhere_or_in_a_circle_is_as_good_as_none() {
    let fixture = Fixture::new()
        .file("usr/lib64/libnvidia-ml.so.580.95.05")
        .link("usr/lib64/libnvidia-ml.so.1", "libnvidia-ml.so.580.95.05")
        .link("usr/lib64/libnvidia-ml.so", "libnvidia-ml.so.2")
        .link("usr/lib64/libcuda.so.580.95.05", "/gone")
        .link("lib64", "lib64")
        .link("usr/bin/nvidia-smi", "nvidia-smi")
        .link("dev/nvidiactl", "gone");
    let Discovery { install, missing } = fixture.discover();
    assert_eq!(
        install.libraries,
        [at("/usr/lib64/libnvidia-ml.so.580.95.05")]
    );
    assert_eq!(
        install.links,
        [link(
            "/usr/lib64/libnvidia-ml.so.1",
            "libnvidia-ml.so.580.95.05"
        )]
    );
    assert_eq!(missing, [Missing::Smi, Missing::Cuda, Missing::UvmNode]);
}

#[test]
fn no_link_leads_out_of_the_root() {
    let outside = TempDir::new().unwrap();
    let secret = outside.path().join("libcuda.so.580.95.05");
    fs::write(&secret, "outside").unwrap();
    let outside = outside.path().to_str().unwrap();
    let fixture = Fixture::new()
        .file("usr/lib64/libnvidia-ml.so.580.95.05")
        .link("usr/lib64/libcuda.so.580.95.05", secret.to_str().unwrap())
        .link(
            "usr/lib64/libnvidia-ptxjitcompiler.so.580.95.05",
            "../../../../../etc/passwd",
        )
        .link("lib/x86_64-linux-gnu", outside)
        .link("usr/bin/nvidia-smi", "/proc/self/exe")
        .link("dev", "/dev");
    let Discovery { install, .. } = fixture.discover();
    assert_eq!(
        install.libraries,
        [at("/usr/lib64/libnvidia-ml.so.580.95.05")]
    );
    assert_eq!(install.binaries, []);
}

#[test]
fn a_root_without_device_nodes_has_the_hosts() {
    let fixture = Fixture::new().file("lib64/libnvidia-ml.so.580.95.05");
    assert_eq!(fixture.discover().install.gpu_nodes, "/dev");
    let fixture = fixture.node("dev/nvidia0");
    assert_eq!(
        fixture.discover().install.gpu_nodes,
        "/run/nvidia/driver/dev"
    );
}

#[test]
fn a_root_without_the_driver_says_where_it_looked_and_what_to_set() {
    let fixture = Fixture::new().file("usr/lib64/libc.so.6");
    let error = find_nvml(&fixture.root()).unwrap_err().to_string();
    for part in ["usr/lib64", "/run/nvidia/driver", "nvidiaDriverRoot", NVML] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let gone = DriverRoot::new(fixture.folder.path().join("gone"), "/run/nvidia/driver");
    let error = find_nvml(&gone).unwrap_err();
    assert!(matches!(error, DriverRootError::OpenRoot { .. }), "{error}");
}

#[test]
fn libraries_of_another_version_than_the_kernels_are_refused_by_both_versions() {
    let error = discover(&red_hat().root(), &DriverVersion::new("535.104.12")).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("535.104.12"), "{error}");
    assert!(error.contains("nvidiaDriverRoot"), "{error}");
}

#[test]
fn the_fingerprint_changes_with_the_installation_and_not_without() {
    let fixture = red_hat();
    let print = |fixture: &Fixture| fingerprint(&fixture.root()).unwrap();
    let before = print(&fixture);
    assert_eq!(before, print(&fixture));
    let fixture = fixture.file("usr/lib64/libcudadebugger.so.580.95.05");
    let with_library = print(&fixture);
    assert_ne!(before, with_library);
    let fixture = fixture.socket("run/nvidia-fabricmanager/socket");
    assert_ne!(with_library, print(&fixture));
}
