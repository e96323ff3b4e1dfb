//! Puts packages of Debian into an image, with all that they need, without installing anything.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::ImageError;
use super::oci::Image;
use crate::apt;
use crate::process::{self, RunError, run};

const DOWNLOAD_LIMIT: Duration = Duration::from_mins(10);
const UNPACK_LIMIT: Duration = Duration::from_mins(1);

/// Directories that are links into `/usr` since the merge of both, which some packages still write to.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// What no program of the image reads.
const LEFT_OUT: [&str; 9] = [
    "usr/share/doc/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/perl",
    "usr/share/zoneinfo/",
    "usr/lib/MULTIARCH/gconv/",
    "usr/lib/MULTIARCH/perl",
];

/// Downloads these packages and all that they depend on, as for a machine that has none, into `work`.
pub(super) fn download(packages: &[&str], work: &Path) -> Result<Vec<PathBuf>, ImageError> {
    for tool in ["apt-get", "dpkg-deb"] {
        process::find(tool).ok_or(ImageError::NoApt(tool))?;
    }
    let (status, archives) = (work.join("status"), work.join("archives"));
    fs::create_dir_all(archives.join("partial"))
        .and_then(|()| fs::write(&status, ""))
        .map_err(|source| ImageError::Write {
            path: archives.clone(),
            source,
        })?;
    let arguments = [
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
        "--download-only",
        "-o",
        &format!("Dir::State::status={}", status.display()),
        "-o",
        &format!("Dir::Cache::archives={}", archives.display()),
    ];
    let arguments = [&arguments, packages].concat();
    apt::get(&arguments, work, DOWNLOAD_LIMIT).map_err(|source| ImageError::Debian {
        packages: packages.join(" "),
        source,
    })?;
    debs(&archives)
}

/// Downloads a package without what it depends on into `work`.
pub(super) fn download_alone(package: &str, work: &Path) -> Result<PathBuf, ImageError> {
    let arguments = ["download", "-q", package];
    apt::get(&arguments, work, DOWNLOAD_LIMIT).map_err(|source| ImageError::Debian {
        packages: package.to_owned(),
        source,
    })?;
    let found = debs(work)?.into_iter().next();
    found.ok_or_else(|| ImageError::Package {
        package: work.join(package),
        source: io::Error::from(io::ErrorKind::NotFound),
    })
}

fn debs(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let entries: io::Result<Vec<_>> = fs::read_dir(dir)?.collect();
        let paths = entries?.into_iter().map(|entry| entry.path());
        let is_package = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
        let mut packages: Vec<_> = paths.filter(is_package).collect();
        packages.sort();
        Ok(packages)
    };
    list().map_err(|source| ImageError::Read {
        path: dir.to_owned(),
        source,
    })
}

/// Unpacks a package into a directory, as it is.
pub(super) fn unpack(package: &Path, into: &Path) -> Result<(), ImageError> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--extract").arg(package).arg(into);
    run(&mut command, UNPACK_LIMIT)
        .map(drop)
        .map_err(|source| failed(package, source))
}

/// Adds the files of these packages to an image. Their scripts do not run: what these would set up is the image's to say.
pub(super) fn add_packages(
    image: Image,
    packages: &[PathBuf],
    work: &Path,
) -> Result<Image, ImageError> {
    let merged = MERGED.iter().fold(image, |image, directory| {
        image.link(directory, &format!("usr/{directory}"))
    });
    packages.iter().try_fold(merged, |image, package| {
        let archive = work.join("package.tar");
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec dpkg-deb --fsys-tarfile \"$0\" > \"$1\""])
            .args([package, &archive]);
        run(&mut command, UNPACK_LIMIT).map_err(|source| failed(package, source))?;
        add_archive(image, &archive).map_err(|source| ImageError::Package {
            package: package.clone(),
            source,
        })
    })
}

fn failed(package: &Path, source: RunError) -> ImageError {
    let name = package.file_stem().unwrap_or_default();
    ImageError::Debian {
        packages: name.to_string_lossy().into_owned(),
        source,
    }
}

fn add_archive(mut image: Image, archive: &Path) -> io::Result<Image> {
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(archive)?).entries()? {
        let mut entry = entry?;
        let Some(at) = place(&entry.path()?.to_string_lossy()) else {
            continue;
        };
        let mode = entry.header().mode()? & 0o7777;
        let target = entry
            .link_name()?
            .map(|to| to.to_string_lossy().into_owned());
        image = match (entry.header().entry_type(), target) {
            (tar::EntryType::Directory, _) => image.directory(&at, mode),
            (tar::EntryType::Symlink, Some(to)) => image.link(&at, &to),
            // Another name of a file that came before it.
            (tar::EntryType::Link, Some(to)) => {
                let content = place(&to).and_then(|to| contents.get(&to).cloned());
                match content {
                    Some(content) => image.file(&at, mode, content),
                    None => image,
                }
            }
            (tar::EntryType::Regular, _) => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                contents.insert(at.clone(), content.clone());
                image.file(&at, mode, content)
            }
            _ => image,
        };
    }
    Ok(image)
}

/// Where a file of a package goes, if it is wanted: behind the links into `/usr`.
fn place(path: &str) -> Option<String> {
    let path = path.trim_start_matches("./").trim_matches('/');
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    // The links themselves are there already.
    if path.is_empty() || (MERGED.contains(&first) && rest.is_empty()) {
        return None;
    }
    let path = if MERGED.contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    };
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut left_out = LEFT_OUT.iter();
    let is_wanted =
        !left_out.any(|start| path.starts_with(&start.replace("MULTIARCH", &multiarch)));
    is_wanted.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_old_directories_go_behind_the_links_and_documents_nowhere() {
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        for (path, wanted) in [
            ("./", None),
            ("./bin/", None),
            ("./bin/sh", Some("usr/bin/sh")),
            ("./usr/bin/orterun", Some("usr/bin/orterun")),
            ("./etc/ssh/", Some("etc/ssh")),
            ("./library/x", Some("library/x")),
            ("./usr/share/doc/bash/copyright", None),
        ] {
            assert_eq!(place(path).as_deref(), wanted, "{path}");
        }
        let libc = format!("./lib/{multiarch}/libc.so.6");
        assert_eq!(place(&libc), Some(format!("usr/lib/{multiarch}/libc.so.6")));
        assert_eq!(place(&format!("./usr/lib/{multiarch}/gconv/X.so")), None);
    }
}
