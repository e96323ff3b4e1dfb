//! Which shared libraries of this machine a program needs, as the loader itself says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ImageError;
use super::oci::Image;
use crate::platform::Platform;
use crate::process::{RunError, run};

const LIST_LIMIT: Duration = Duration::from_secs(30);

/// What vendor libraries built against an older C library still ask for by name, though it is all in one since 2.34.
const COMPANIONS: [&str; 5] = [
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
];

/// Adds to the image what these programs need, each library where the loader looks for it, and the parts of
/// the C library that what is loaded later may need.
pub(super) fn add_libraries(
    image: Image,
    programs: &[&Path],
    platform: Platform,
) -> Result<Image, ImageError> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        libraries.extend(needed(program, platform)?);
    }
    let companions = libraries
        .iter()
        .filter(|library| library.ends_with("libc.so.6"))
        .flat_map(|libc| {
            COMPANIONS
                .iter()
                .map(|name| libc.with_file_name(name))
                .filter(|library| library.exists())
        });
    let all: BTreeSet<_> = companions.chain(libraries.iter().cloned()).collect();
    all.iter().try_fold(image, |image, library| {
        image.program(&platform.place(library), library)
    })
}

fn needed(program: &Path, platform: Platform) -> Result<Vec<PathBuf>, ImageError> {
    match run(&mut platform.list_libraries(program), LIST_LIMIT) {
        Ok(list) => Ok(parse(&list)),
        // What is linked statically needs none, and ldd calls that a failure.
        Err(RunError::Failed { tail, .. }) if tail.contains("not a dynamic executable") => {
            Ok(Vec::new())
        }
        Err(source) => Err(ImageError::Libraries {
            program: program.to_owned(),
            source,
        }),
    }
}

/// Reads `name => /path (address)` and `/path (address)`; the kernel's own object has no path.
fn parse(list: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let found = line.split_once("=>").map_or(line, |(_, found)| found);
        let path = found.trim().split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    list.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_list_gives_every_path_and_skips_what_has_none() {
        let list = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f01)\n\
                    \tlibmissing.so.2 => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f03)\n\
                    \tstatically linked\n";
        assert_eq!(
            parse(list),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libgcc_s.so.1"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }
}
