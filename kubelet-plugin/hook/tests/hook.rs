//! Runs the program as a container runtime does, on roots in temporary folders.
//!
//! It needs root: without it, each run gets a user namespace in which it is root.

#![expect(
    clippy::unwrap_used,
    reason = "a step of a test that cannot be taken ends the test"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const HOOK: &str = env!("CARGO_BIN_EXE_tessera-cdi-hook");

/// A bundle with a root, and a folder outside of it.
struct Container {
    bundle: TempDir,
    outside: TempDir,
}

impl Container {
    fn new() -> Self {
        let bundle = TempDir::new().unwrap();
        fs::create_dir(bundle.path().join("rootfs")).unwrap();
        let config = r#"{"ociVersion":"1.2.0","root":{"path":"rootfs"}}"#;
        fs::write(bundle.path().join("config.json"), config).unwrap();
        let outside = TempDir::new().unwrap();
        Self { bundle, outside }
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.bundle.path().join("rootfs").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(&self, path: &str, content: &str) {
        fs::write(self.path(path), content).unwrap();
    }

    fn link(&self, path: &str, text: impl AsRef<Path>) {
        symlink(text, self.path(path)).unwrap();
    }

    /// A real library of the given name, built here.
    fn library(&self, path: &str, soname: &str) {
        let source = self.bundle.path().join("library.c");
        fs::write(&source, "int tessera(void) { return 1; }\n").unwrap();
        let built = Command::new("cc")
            .args([
                "-shared",
                "-nostdlib",
                &format!("-Wl,-soname,{soname}"),
                "-o",
            ])
            .arg(self.path(path))
            .arg(source)
            .status()
            .unwrap();
        assert!(built.success());
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_after("true", args)
    }

    /// Runs the hook after a shell command, in a mount namespace of its own. The shell's `$1` is
    /// the container's root.
    fn run_after(&self, before: &str, args: &[&str]) -> Output {
        let mut child = Command::new("unshare")
            .args(["--mount", "--user", "--map-root-user"])
            .args(["sh", "-ec", &format!("{before}; shift; exec \"$@\""), "sh"])
            .arg(self.path("."))
            .arg(HOOK)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let state = format!(
            r#"{{"ociVersion":"1.2.0","id":"a","status":"creating","pid":1,"bundle":"{}"}}"#,
            self.bundle.path().display()
        );
        // Refused arguments end the program before it reads.
        let _ = child.stdin.take().unwrap().write_all(state.as_bytes());
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        succeeded(&self.run(args))
    }

    #[track_caller]
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    }

    /// What the container's loader knows.
    fn cache(&self) -> String {
        let listed = Command::new("/sbin/ldconfig")
            .args(["-p", "-C"])
            .arg(self.path("etc/ld.so.cache"))
            .output()
            .unwrap();
        String::from_utf8(listed.stdout).unwrap()
    }

    #[track_caller]
    fn nothing_outside(&self) {
        assert_eq!(fs::read_dir(self.outside.path()).unwrap().count(), 0);
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    message
}

const LINK: &str = "libcuda.so.1::/usr/lib64/libcuda.so";
const UPDATE: [&str; 3] = ["update-ldcache", "--folder", "/usr/lib/driver"];

#[test]
fn links_are_made_with_their_folders_and_twice_is_once() {
    let container = Container::new();
    for _ in 0..2 {
        let said = container.succeeds(&["create-symlinks", "--link", LINK]);
        assert_eq!(said, "");
        let text = fs::read_link(container.path("usr/lib64/libcuda.so")).unwrap();
        assert_eq!(text, Path::new("libcuda.so.1"));
    }
}

#[test]
fn what_is_made_is_for_every_user_whatever_the_runtimes_mask() {
    let container = Container::new();
    succeeded(&container.run_after("umask 077", &UPDATE));
    for (path, mode) in [
        ("etc/ld.so.conf.d", 0o755),
        ("etc/ld.so.conf.d/00-tessera.conf", 0o644),
    ] {
        let permissions = fs::metadata(container.path(path)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn a_link_replaces_the_images_library_of_that_name() {
    let container = Container::new();
    container.file("usr/lib64/libcuda.so", "a stub");
    container.succeeds(&["create-symlinks", "--link", LINK]);
    let text = fs::read_link(container.path("usr/lib64/libcuda.so")).unwrap();
    assert_eq!(text, Path::new("libcuda.so.1"));
}

#[test]
fn no_link_is_made_outside_a_hostile_root() {
    for text in ["/", "../../../../../../../../../../../../"] {
        let container = Container::new();
        let outside = container.outside.path().strip_prefix("/").unwrap();
        container.link("usr/lib64", Path::new(text).join(outside));
        let message = container.fails(&["create-symlinks", "--link", LINK]);
        assert!(message.contains("/usr/lib64"), "{message}");
        container.nothing_outside();
    }
}

#[test]
fn a_folder_in_a_links_place_is_told_by_its_path() {
    let container = Container::new();
    container.file("usr/lib64/libcuda.so/file", "");
    let message = container.fails(&["create-symlinks", "--link", LINK]);
    assert!(message.contains("/usr/lib64/libcuda.so"), "{message}");
}

#[test]
fn the_containers_loader_learns_the_drivers_library() {
    let container = Container::new();
    container.library("usr/lib/driver/libtessera.so.580.95.05", "libtessera.so.1");
    for _ in 0..2 {
        container.succeeds(&UPDATE);
        let cache = container.cache();
        assert!(cache.contains("libtessera.so.1"), "{cache}");
        assert!(
            cache.contains("=> /usr/lib/driver/libtessera.so.1"),
            "{cache}"
        );
    }
    let conf = fs::read_to_string(container.path("etc/ld.so.conf.d/00-tessera.conf")).unwrap();
    assert_eq!(conf, "/usr/lib/driver\n");
    let cache = fs::metadata(container.path("etc/ld.so.cache")).unwrap();
    assert_eq!(cache.permissions().mode() & 0o777, 0o644);
}

#[test]
fn the_images_own_folders_stay_in_the_cache() {
    let container = Container::new();
    container.library("usr/lib/driver/libtessera.so.580.95.05", "libtessera.so.1");
    container.library("opt/lib/libown.so.2", "libown.so.2");
    container.file("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n");
    container.file("etc/ld.so.conf.d/own.conf", "/opt/lib\n");
    container.succeeds(&UPDATE);
    let cache = container.cache();
    for library in ["libtessera.so.1", "libown.so.2"] {
        assert!(cache.contains(library), "{cache}");
    }
}

#[test]
fn an_image_without_a_loader_is_no_error() {
    let container = Container::new();
    container.file("app", "static");
    container.succeeds(&UPDATE);
}

#[test]
fn no_cache_or_configuration_is_written_outside_a_hostile_root() {
    for hostile in ["etc", "etc/ld.so.conf.d"] {
        let container = Container::new();
        container.library("usr/lib/driver/libtessera.so.580.95.05", "libtessera.so.1");
        container.link(hostile, container.outside.path());
        let message = container.fails(&UPDATE);
        assert!(message.contains("/etc/ld.so.conf.d"), "{message}");
        container.nothing_outside();
    }
    for hostile in ["etc/ld.so.cache", "etc/ld.so.conf.d/00-tessera.conf"] {
        let container = Container::new();
        container.library("usr/lib/driver/libtessera.so.580.95.05", "libtessera.so.1");
        let victim = container.outside.path().join("victim");
        container.link(hostile, &victim);
        container.succeeds(&UPDATE);
        container.nothing_outside();
        assert!(container.cache().contains("libtessera.so.1"));
    }
}

#[test]
fn a_failure_of_ldconfig_itself_is_told_in_its_words() {
    let container = Container::new();
    container.library("usr/lib/driver/libtessera.so.580.95.05", "libtessera.so.1");
    container.link("etc/ld.so.cache~", container.outside.path().join("victim"));
    let message = container.fails(&UPDATE);
    assert!(message.contains("/etc/ld.so.cache~"), "{message}");
    container.nothing_outside();
}

#[test]
fn a_hostile_loader_configuration_reaches_no_folder_outside() {
    let container = Container::new();
    container.library("usr/lib/driver/libtessera.so.580.95.05", "libtessera.so.1");
    fs::copy(
        container.path("usr/lib/driver/libtessera.so.580.95.05"),
        container.outside.path().join("liboutside.so.1.0"),
    )
    .unwrap();
    let outside = container.outside.path().display();
    let dots = "../".repeat(40);
    container.file(
        "etc/ld.so.conf",
        &format!("{outside}\n/{dots}{outside}\n/way-out\n"),
    );
    container.link("way-out", container.outside.path());
    container.succeeds(&UPDATE);
    let cache = container.cache();
    assert!(cache.contains("libtessera.so.1"), "{cache}");
    assert!(!cache.contains("outside"), "{cache}");
    assert_eq!(fs::read_dir(container.outside.path()).unwrap().count(), 1);
}

/// The container's `/proc` shows the hook and the runtime, whose entries lead to files that they
/// have open and to their roots.
#[test]
fn the_containers_proc_is_no_way_out_for_its_loader_configuration() {
    let container = Container::new();
    container.library("usr/lib/driver/libtessera.so.580.95.05", "libtessera.so.1");
    fs::copy(
        container.path("usr/lib/driver/libtessera.so.580.95.05"),
        container.outside.path().join("liboutside.so.1.0"),
    )
    .unwrap();
    let outside = container.outside.path().display();
    let dots = "../".repeat(12);
    let include = |way| format!("include /proc/[0-9]*/{way}/{dots}{outside}/*.conf\n");
    let list = ["root", "cwd", "fd/[0-9]*"].map(include).concat();
    container.file("etc/ld.so.conf", &list);
    container.library("found/libfound.so.1", "libfound.so.1");
    fs::write(container.outside.path().join("way.conf"), "/found\n").unwrap();
    fs::create_dir(container.path("proc")).unwrap();
    let output = container.run_after("mount --rbind /proc \"$1/proc\"", &UPDATE);
    succeeded(&output);
    let cache = container.cache();
    assert!(cache.contains("libtessera.so.1"), "{cache}");
    assert!(!cache.contains("libfound"), "{cache}");
}

#[test]
fn a_read_only_root_is_a_warning() {
    let container = Container::new();
    container.library("usr/lib/driver/libtessera.so.580.95.05", "libtessera.so.1");
    let read_only = "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"";
    for args in [&UPDATE[..], &["create-symlinks", "--link", LINK]] {
        let said = succeeded(&container.run_after(read_only, args));
        assert!(said.contains("warning"), "{said}");
        assert!(said.contains("read-only"), "{said}");
    }
}

#[test]
fn a_wrapper_script_without_the_real_program_is_told_by_what_it_is() {
    let container = Container::new();
    let script = container.outside.path().join("ldconfig");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let mut args = UPDATE.to_vec();
    args.extend(["--ldconfig-path", script.to_str().unwrap()]);
    let message = container.fails(&args);
    assert!(message.contains("a script"), "{message}");
}

#[test]
fn help_needs_no_container_and_nonsense_is_refused_with_its_own_status() {
    let container = Container::new();
    let output = container.run(&["--help"]);
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("Exit status")
    );
    assert_eq!(container.run(&["chmod"]).status.code(), Some(2));
}
