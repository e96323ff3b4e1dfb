use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

struct Fixture {
    root: TempDir,
    outside: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self {
            root: TempDir::new().unwrap(),
            outside: TempDir::new().unwrap(),
        }
    }

    fn rootfs(&self) -> Rootfs {
        Rootfs::open(self.root.path()).unwrap()
    }

    fn link(&self, path: &str, text: impl AsRef<Path>) {
        symlink(text, self.root.path().join(path)).unwrap();
    }

    #[track_caller]
    fn nothing_outside(&self) {
        assert_eq!(fs::read_dir(self.outside.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_folder_behind_a_link_to_an_absolute_path_is_the_containers() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.root.path().join("real")).unwrap();
    fixture.link("etc", "/real");
    let folder = fixture.rootfs().make_folder("/etc/ld.so.conf.d").unwrap();
    folder.put_file("a.conf", "/usr/lib64\n").unwrap();
    let written = fixture.root.path().join("real/ld.so.conf.d/a.conf");
    assert_eq!(fs::read_to_string(written).unwrap(), "/usr/lib64\n");
}

#[test]
fn a_folder_behind_a_link_out_of_the_root_is_not_reached() {
    let fixture = Fixture::new();
    let dots = "../".repeat(40);
    let outside = fixture.outside.path().display();
    for text in [outside.to_string(), format!("{dots}{outside}")] {
        fixture.link("etc", &text);
        let error = fixture
            .rootfs()
            .make_folder("/etc/ld.so.conf.d")
            .unwrap_err();
        assert_eq!(error, Errno::NOENT, "{text}");
        fixture.nothing_outside();
        fs::remove_file(fixture.root.path().join("etc")).unwrap();
    }
}

#[test]
fn a_magic_link_is_not_followed() {
    let fixture = Fixture::new();
    fixture.link("etc", "/proc/self/cwd");
    fs::create_dir_all(fixture.root.path().join("proc/self")).unwrap();
    fixture.link("proc/self/cwd", fixture.outside.path());
    assert!(fixture.rootfs().make_folder("/etc/x").is_err());
    fixture.nothing_outside();
}

#[test]
fn a_file_or_link_in_place_is_replaced_and_not_written_through() {
    let fixture = Fixture::new();
    let victim = fixture.outside.path().join("victim");
    fs::write(&victim, "safe").unwrap();
    for name in ["file", ".file.tessera", "link", ".link.tessera"] {
        fixture.link(name, &victim);
    }
    let folder = fixture.rootfs().make_folder("/").unwrap();
    folder.put_file("file", "content").unwrap();
    folder.put_link("link", "target").unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "safe");
    let at = |name: &str| fixture.root.path().join(name);
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "content");
    assert!(fs::symlink_metadata(at("file")).unwrap().is_file());
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("target"));
    assert_eq!(fs::read_dir(fixture.root.path()).unwrap().count(), 2);
}

#[test]
fn a_folder_in_place_is_an_error_and_leaves_nothing_behind() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.root.path().join("name")).unwrap();
    let folder = fixture.rootfs().make_folder("/").unwrap();
    assert!(folder.put_link("name", "target").is_err());
    assert!(folder.put_file("name", "content").is_err());
    assert_eq!(fs::read_dir(fixture.root.path()).unwrap().count(), 1);
}

#[test]
fn what_is_right_already_is_left_alone() {
    let fixture = Fixture::new();
    let folder = fixture.rootfs().make_folder("/").unwrap();
    let inode = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::symlink_metadata(fixture.root.path().join(name))
            .unwrap()
            .ino()
    };
    let put = || {
        folder.put_file("file", "content").unwrap();
        folder.put_link("link", "target").unwrap();
        (inode("file"), inode("link"))
    };
    assert_eq!(put(), put());
}
